// The kernel of store.cu, for a test to call.
#include <ptx.cuh>
#include "store.cu"

extern "C" void launch_store(int x, int y, const Arguments* the) {
  emulator::launch({x, y, 1}, THREADS, [&] { store(*the); });
}
