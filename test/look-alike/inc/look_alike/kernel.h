/* How a kernel gets from its source to cuModuleGetFunction and cuLaunchKernel. */
#pragma once

namespace look_alike {

struct Parameter {
  unsigned bytes;
  bool pointer;
};

/* A kernel, compiled for the CPU. */
struct Kernel {
  const char *name;
  /* The .cu file, and the targets of the PTX that it stands for: 75, 80, 90; zero ends. */
  const char *source;
  const int *targets;
  const Parameter *parameters;
  unsigned parameter_count;
  /* Runs the current thread: as `void **kernelParams` of cuLaunchKernel. */
  void (*call)(void **arguments);
  const Kernel *next;
};

/* Adds to the list of all kernels; runs when the library is loaded. */
void register_kernel(Kernel *kernel);

template <unsigned... I>
struct Indices {};
template <unsigned N, unsigned... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <unsigned... I>
struct MakeIndices<0, I...> {
  using type = Indices<I...>;
};
template <class T>
struct IsPointer {
  static constexpr bool value = false;
};
template <class T>
struct IsPointer<T *> {
  static constexpr bool value = true;
};
template <class T>
struct Plain {
  using type = T;
};
template <class T>
struct Plain<const T> {
  using type = T;
};

/* Kernel F's parameters, and a call of it with arguments behind pointers. */
template <auto F>
struct Unpack;
template <class... A, void (*F)(A...)>
struct Unpack<F> {
  /* One more than there are, so that none is no empty array. */
  static constexpr Parameter parameters[] = {{sizeof(A), IsPointer<typename Plain<A>::type>::value}..., {0, false}};
  static constexpr unsigned count = sizeof...(A);
  static void call(void **arguments) { go(arguments, typename MakeIndices<sizeof...(A)>::type()); }

 private:
  template <unsigned... I>
  static void go(void **arguments, Indices<I...>) {
    (void)arguments;
    F(*(typename Plain<A>::type *)arguments[I]...);
  }
};

struct Registration {
  Kernel kernel;
  Registration(const char *name, const char *source, const int *targets, const Parameter *parameters, unsigned count,
               void (*call)(void **))
      : kernel{name, source, targets, parameters, count, call, nullptr} {
    register_kernel(&kernel);
  }
};

}  // namespace look_alike
