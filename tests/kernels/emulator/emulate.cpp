// The kernels of decode.cu, for a test to call.
#include <ptx.cuh>
#include "decode.cu"

extern "C" void launch_attend(int x, int y, int threads, const Arguments* the) {
  emulator::launch({x, y, 1}, threads, [&] { attend(*the); });
}

extern "C" void launch_combine(int x, int y, int threads, const Arguments* the) {
  emulator::launch({x, y, 1}, threads, [&] { combine(*the); });
}
