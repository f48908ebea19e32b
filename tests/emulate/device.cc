/* What the emulated GPU says of itself, and the names of errors. */
#include "core.h"

#include <cstdio>
#include <cstring>

using namespace emulate;

namespace
{
struct error_name {
    cudaError_t e;
    const char *name, *text;
};
const error_name errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "the capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorGraphExecUpdateFailure, "cudaErrorGraphExecUpdateFailure",
     "the graph update was not performed because it included changes which violated constraints "
     "specific to instantiated graph update"}};

const error_name &entry(cudaError_t e)
{
    static const error_name unknown = {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"};
    for (const error_name &n : errors)
        if (n.e == e) return n;
    return unknown;
}

int chosen;

cudaError_t is_there(int device)
{
    if (!set().has_driver) return cudaErrorInsufficientDriver;
    if (!set().devices) return cudaErrorNoDevice;
    return device < 0 || device >= set().devices ? cudaErrorInvalidDevice : cudaSuccess;
}
} // namespace

int emulate::current_device() { return chosen; }

extern "C" const char *cudaGetErrorString(cudaError_t e) { return entry(e).text; }
extern "C" const char *cudaGetErrorName(cudaError_t e) { return entry(e).name; }

extern "C" cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    cudaError_t e = is_there(0);
    if (!e) *count = set().devices;
    return note(e);
}

extern "C" cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    if (cudaError_t e = is_there(device)) return note(e);
    *value = attr == cudaDevAttrComputeCapabilityMajor ? set().chip / 10 : set().chip % 10;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    if (cudaError_t e = is_there(device)) return note(e);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated");
    memcpy(p->uuid.bytes, "emulated GPU no", 15);
    p->uuid.bytes[15] = (char)('0' + device);
    p->totalGlobalMem = set().memory;
    p->major = set().chip / 10;
    p->minor = set().chip % 10;
    return cudaSuccess;
}

/* No such place: nothing that Linux knows of the bus fits. */
extern "C" cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device)
{
    if (cudaError_t e = is_there(device)) return note(e);
    snprintf(text, (size_t)bytes, "EEEE:%02X:00.0", (unsigned)device & 255u);
    return cudaSuccess;
}

extern "C" cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

extern "C" cudaError_t cudaSetDevice(int device)
{
    cudaError_t e = is_there(device);
    if (!e) chosen = device;
    return note(e);
}
