// The instructions that CUDA C++ has no name for, one function each. A lane of a warp is lane
// (g, t) = (lane / 4, lane % 4), as the PTX manual lays out the fragments of its matrices.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define OUTLINE __device__ __noinline__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) u8 name[]

DEVICE int lane_id() { return threadIdx.x & 31; }

// D = A·B + C with A [16, 16], B [16, 8], C and D [16, 8]. a0 holds row g and columns 2t, 2t+1;
// a1 row g+8; a2 and a3 the same rows, columns 2t+8, 2t+9. b0 holds rows 2t, 2t+1 of column g, b1
// rows 2t+8, 2t+9. c[0], c[1] are columns 2t, 2t+1 of row g, c[2], c[3] those of row g+8.
DEVICE void mma_half(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1,
                     const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
}

DEVICE void mma_bfloat(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1,
                       const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
}

// Transpose an [8, 8] matrix of 16-bit elements: columns 2t, 2t+1 of row g become rows 2t, 2t+1 of
// column g, which is how the result of one product is an operand of the next.
DEVICE u32 transposed(u32 pair) {
  u32 result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two numbers in one register, the first in the low half.
DEVICE u32 pack_half(float low, float high) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

DEVICE u32 pack_bfloat(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

DEVICE float half_to_float(u16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}

DEVICE float low_half(u32 pair) { return half_to_float((u16)pair); }
DEVICE float high_half(u32 pair) { return half_to_float((u16)(pair >> 16)); }
DEVICE float low_bfloat(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_bfloat(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

DEVICE u32 multiply_half(u32 x, u32 y) {
  u32 product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(x), "r"(y));
  return product;
}

// The low, or the high, halves of two registers in one.
DEVICE u32 low_halves(u32 x, u32 y) { return __byte_perm(x, y, 0x5410); }
DEVICE u32 high_halves(u32 x, u32 y) { return __byte_perm(x, y, 0x7632); }

// Barriers in shared memory that count the bytes of asynchronous copies: a copy arrives at its
// barrier, and a phase of the barrier ends with it.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

DEVICE void barrier_begin(u64* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}

DEVICE void barriers_visible() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

DEVICE void barrier_wait(u64* barrier, u32 phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra AGAIN;\n"
      "DONE:\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}

// Copy so many bytes, a multiple of 16, from global to shared memory, both aligned to 16.
DEVICE void copy_bytes(void* target, const void* source, u32 bytes, u64* barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(target)),
      "l"(source), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// Programmatic dependent launch: let the next kernel of the stream begin, or wait for the end of
// the one before.
DEVICE void release_next_kernel() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
DEVICE void await_last_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
