/* Plants about recordings, of one rank and of two (plants.cu, which is all that includes this: it
 * has the device, the kernels and `must`). */
#ifndef MR_EMULATE_PLANTS_RECORD_H
#define MR_EMULATE_PLANTS_RECORD_H

/* ---- streams in a recording ---- */
static cudaStream_t side;
static cudaEvent_t mark;

static void make_side(void)
{
    must(!cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), "a stream");
    must(!cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "an event");
}
static void begin_recording(void)
{
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN) == MR_OK, "a recording begins");
}
static mr_status end_recording(void) { return dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_START); }
/* What comes in `to` comes after what is in `from`. */
static void order_streams(cudaStream_t from, cudaStream_t to)
{
    must(!cudaEventRecord(mark, from) && !cudaStreamWaitEvent(to, mark, 0), "an event");
}
static void side_recorded(void)
{
    float *h = pinned_floats(1);
    make_side();
    for (float v = 2; v < 4; v++) {
        begin_recording();
        LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, v);
        order_streams(own_stream(), side);
        must(!cudaMemcpyAsync(h, x, sizeof *h, cudaMemcpyDeviceToHost, side), "a copy");
        order_streams(side, own_stream());
        LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 10 * v);
        must(end_recording() == MR_OK, "and ends");
        must(first_of(x) == 10 * v && h[0] == v, "both streams did what was recorded, in order");
    }
    must(cudaStreamWaitEvent(side, mark, 0) == cudaErrorCapturedEvent, "the event stays inside");
}
static void not_joined(void)
{
    make_side();
    begin_recording();
    order_streams(own_stream(), side);
    must(!cudaMemsetAsync(x, 0, sizeof *x, side), "a filling");
    must(end_recording() != MR_OK, "the side stream is still out");
    begin_recording();
    must(end_recording() == MR_OK, "the next one is not concerned");
}
static void outer_event(void)
{
    make_side();
    must(!cudaEventRecord(mark, side), "an event outside");
    begin_recording();
    must(cudaStreamWaitEvent(own_stream(), mark, 0) == cudaErrorStreamCaptureIsolation, "a wait");
    must(end_recording() != MR_OK, "nothing outside can be waited for");
}
static void side_waited(void)
{
    make_side();
    begin_recording();
    order_streams(own_stream(), side);
    must(cudaStreamSynchronize(side) != cudaSuccess, "no waiting for a stream that joined");
    must(end_recording() != MR_OK, "which spoils it");
}
static void dropped(void)
{
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 1.0f);
    make_side();
    begin_recording();
    order_streams(own_stream(), side);
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 2.0f);
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_DROP) == MR_OK, "a recording is dropped");
    must(dev->recording == 0 && first_of(x) == 1, "and nothing of it is done");
    must(!cudaStreamSynchronize(side), "the side stream is free again");
}
static void other_mode(void) { cudaStreamBeginCapture(own_stream(), cudaStreamCaptureModeGlobal); }

/* ---- recorded collectives of two ranks ---- */
static ncclUniqueId ids[2];
static ncclComm_t comm;
static int rank;
static pid_t other;

static void settle(ncclComm_t c, ncclResult_t e)
{
    while (e == ncclInProgress) must(!ncclCommGetAsyncError(c, &e), "a question");
    must(e == ncclSuccess, "NCCL");
}
static ncclComm_t join(int i)
{
    ncclComm_t c;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(c, ncclCommInitRankConfig(&c, 2, ids[i], rank, &config));
    return c;
}
static void sum_in(ncclComm_t c, cudaStream_t s)
{
    settle(c, ncclAllReduce(x, x, 1, ncclFloat32, ncclSum, c, s));
}
static void two_ranks(bool are_connected)
{
    make_side();
    setenv("NCCL_GRAPH_REGISTER", "0", 1);
    setenv("NCCL_RUNTIME_CONNECT", "0", 1);
    for (ncclUniqueId &id : ids) must(!ncclGetUniqueId(&id), "a name");
    other = fork();
    rank = other == 0;
    setenv("NCCL_HOSTID", rank ? "b" : "a", 1);
    comm = join(0);
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 1.0f);
    if (are_connected) sum_in(comm, own_stream());
    wait_for_it();
}
/* Rank 1 ends here. */
static void one_rank(void)
{
    int status = 0;
    if (rank) exit(0);
    waitpid(other, &status, 0);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0, "rank 1 ended as it should");
}
static void record_sum(void)
{
    begin_recording();
    sum_in(comm, own_stream());
    must(end_recording() == MR_OK, "and ends");
}
static void sums_recorded(void)
{
    two_ranks(true);
    for (float v = 1; v < 3; v++) {
        begin_recording();
        LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, v + (float)rank);
        order_streams(own_stream(), side);
        sum_in(comm, side);
        order_streams(side, own_stream());
        LAUNCH(reverse_kernel, 1, N, 0, &ex, x, true);
        must(end_recording() == MR_OK, "and ends");
        must(first_of(x + N - 1) == 2 * v + 1, "the sum of both ranks");
    }
    sum_in(comm, own_stream());
    must(first_of(x) == 5, "a sum that is not recorded, of what the ranks had, follows");
    dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_FORGET);
    settle(comm, ncclCommFinalize(comm));
    one_rank();
}
static void one_records(void)
{
    two_ranks(true);
    if (rank)
        sum_in(comm, own_stream());
    else
        record_sum();
    wait_for_it();
}
static void another_recording(void)
{
    two_ranks(true);
    if (rank) {
        begin_recording();
        must(end_recording() == MR_OK, "one more");
    }
    record_sum();
    wait_for_it();
}
/* x[0] = the sum over both ranks of `base` + rank, under signature k; recorded unless it was. */
static void sum_again(int64_t k, float base)
{
    mr_signature s = {};
    bool is_done = false;
    s.word[0] = k;
    must(dev->replay(dev, MR_RECORD_STEP, &s, &is_done) == MR_OK, "a start");
    if (is_done) return;
    begin_recording();
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, base + (float)rank);
    sum_in(comm, own_stream());
    must(end_recording() == MR_OK, "and ends");
}
static void started_again(void)
{
    two_ranks(true);
    for (int64_t i = 0; i < 6; i++) {
        sum_again(i % 3, 10.0f * (float)(i % 3));
        must(first_of(x) == 20.0f * (float)(i % 3) + 1, "the sum of both ranks, as recorded");
    }
    must(dev->counts.recorded == 3 && dev->counts.replayed == 3, "three of them start again");
    dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_FORGET);
    settle(comm, ncclCommFinalize(comm));
    one_rank();
}
static void another_again(void)
{
    two_ranks(true);
    sum_again(1, 1);
    sum_again(2, 2);
    wait_for_it();
    sum_again(rank ? 2 : 1, 0);
    wait_for_it();
}
static void one_again(void)
{
    two_ranks(true);
    sum_again(1, 1);
    wait_for_it();
    sum_again(rank ? 2 : 1, 2);
    wait_for_it();
}
static void elsewhere(void)
{
    mr_signature s = {};
    bool is_done = false;
    must(dev->replay(dev, MR_RECORD_STEP, &s, &is_done) == MR_OK && !is_done, "nothing is kept");
    begin_recording();
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 2.0f);
    must(end_recording() == MR_OK, "and ends");
    s.here[1] = 7;
    must(dev->replay(dev, MR_RECORD_STEP, &s, &is_done) == MR_ERR_INTERNAL && !is_done,
         "it does not start for memory elsewhere");
}
static void first_recorded(void)
{
    two_ranks(false);
    record_sum();
}
static void first_letter(void)
{
    two_ranks(true);
    begin_recording();
    settle(comm, rank ? ncclRecv(x, 1, ncclFloat32, 0, comm, own_stream())
                      : ncclSend(x, 1, ncclFloat32, 1, comm, own_stream()));
}
static void registering(void)
{
    two_ranks(true);
    unsetenv("NCCL_GRAPH_REGISTER");
    record_sum();
}
static void no_order(void)
{
    two_ranks(true);
    ncclComm_t second = join(1);
    sum_in(second, own_stream());
    begin_recording();
    order_streams(own_stream(), side);
    sum_in(comm, side);
    sum_in(second, own_stream());
    order_streams(side, own_stream());
    (void)end_recording();
}
static void not_asked(void)
{
    two_ranks(true);
    begin_recording();
    (void)ncclAllReduce(x, x, 1, ncclFloat32, ncclSum, comm, own_stream());
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 0.0f);
}
static void ends_too_early(void)
{
    two_ranks(true);
    record_sum();
    wait_for_it();
    settle(comm, ncclCommFinalize(comm));
}
static void made_in_recording(void)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    two_ranks(true);
    begin_recording();
    must(ncclCommInitRankConfig(&comm, 2, ids[1], rank, &config) == ncclUnhandledCudaError,
         "no communicator is made in a recording");
    must(end_recording() != MR_OK, "which spoils it");
    one_rank();
}
static void *abort_comm(void *done)
{
    (void)ncclCommAbort(comm);
    __atomic_store_n((int *)done, 1, __ATOMIC_RELEASE);
    return NULL;
}
/* An abort returns when nothing recorded is left. */
static void aborted(void)
{
    pthread_t thread;
    int done = 0;
    two_ranks(true);
    record_sum();
    wait_for_it();
    must(!pthread_create(&thread, NULL, abort_comm, &done), "a thread");
    usleep(50000);
    must(!__atomic_load_n(&done, __ATOMIC_ACQUIRE), "it waits for the graph");
    dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_FORGET);
    pthread_join(thread, NULL);
    one_rank();
}

#endif
