// Opens backends by name: "cpu" in process. The one place that knows which machines there are.
#include "backend.h"

#include "cpu/cpu_backend.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "error.h"

#include <algorithm>
#include <system_error>

namespace rwkv {

void TextCache::make_room(size_t n, size_t more) {
    layers.resize(std::max(layers.size(), n));
    for (std::vector<float> &layer : layers)
        if (layer.capacity() - layer.size() < more)
            layer.reserve(layer.size() + std::max(more, layer.size() / 2));
}

std::shared_ptr<Backend> open_backend(const std::string &device, int threads) {
    if (device != "cpu")
        throw unsupported("device \"" + device + "\" is not part of this build; use \"cpu\"");
    if (threads < 0 || threads > 1024)
        throw invalid("threads must be 0 (automatic) to 1024, not " + std::to_string(threads));
    const cpu::Kernels &kernels = cpu::chosen_kernels();
    if (threads == 0) threads = cpu::automatic_threads();
    try {
        return std::make_shared<cpu::CpuBackend>(kernels, threads);
    } catch (const std::system_error &error) {
        throw Error(RWKV_NO_MEMORY,
                    "cannot start " + std::to_string(threads) + " threads: " + error.what());
    }
}

std::string cpu_isa() { return cpu::chosen_kernels().name; }

}  // namespace rwkv
