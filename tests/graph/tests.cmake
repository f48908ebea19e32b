# The tape itself: plan, memory, gradients through shared nodes.
mr_add_test(graph SOURCES graph/test_graph.c LABELS graph)
mr_add_test(stacks SOURCES graph/test_stacks.c LABELS graph)
