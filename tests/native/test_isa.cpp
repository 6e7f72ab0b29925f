// Which kernels are chosen: RWKV_CPU_ISA, names that are unknown or that this machine cannot run,
// and the number of threads that a machine is worth.
#include "backend.h"
#include "check.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "error.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <unistd.h>

using namespace rwkv;

namespace {

#if defined(__aarch64__)
const char *const kLast = "neon", *const kElsewhere = "avx2";
#else
const char *const kLast = "baseline", *const kElsewhere = "neon";
#endif

void test_choice() {
    const char *given = std::getenv("RWKV_CPU_ISA");
    if (given && *given) {
        CHECK(cpu_isa() == given);
        CHECK(open_backend("cpu", 1)->isa() == given);
        CHECK(std::string(cpu::chosen_kernels().name) == given);
    }
    const auto usable = cpu::usable_kernels();
    CHECK(!usable.empty() && std::string(usable.back()->name) == kLast);
    for (const cpu::Kernels *kernels : usable) {
        setenv("RWKV_CPU_ISA", kernels->name, 1);
        CHECK(cpu_isa() == kernels->name);
        CHECK(&cpu::chosen_kernels() == kernels);
        CHECK(open_backend("cpu", 1)->isa() == kernels->name);
        const char *name = nullptr;
        CHECK(rwkv_cpu_isa(&name) == RWKV_OK && name && std::string(name) == kernels->name);
    }
    unsetenv("RWKV_CPU_ISA");
    CHECK(cpu_isa() == usable.front()->name);
    setenv("RWKV_CPU_ISA", "", 1);
    CHECK(cpu_isa() == usable.front()->name);
#if defined(__x86_64__)
    // Lanes prove which object the table came from.
    for (const cpu::Kernels *kernels : usable) {
        const std::string name = kernels->name;
        CHECK(kernels->lanes == (name.starts_with("avx2") ? 8 : name == "baseline" ? 4 : 16));
        const bool pairs = kernels->input(cpu::kBf16, cpu::kBf16) == cpu::kPairs;
        CHECK(pairs == (name == "avx512bf16"));
    }
    CHECK(!__builtin_cpu_supports("avx512vl") || usable.size() >= 3);
    CHECK(!__builtin_cpu_supports("avx512bf16") || usable.size() >= 4);
#elif defined(__aarch64__)
    for (const cpu::Kernels *kernels : usable) {
        CHECK(kernels->lanes == 4);
        const bool pairs = kernels->input(cpu::kBf16, cpu::kBf16) == cpu::kPairs;
        CHECK(pairs == (std::string(kernels->name) == "neonbf16"));
    }
#endif
}

void test_unknown() {
    for (const char *name : {"neon2", "AVX2", "avx2 ", "sse"}) {
        setenv("RWKV_CPU_ISA", name, 1);
        CHECK_THROWS(cpu_isa(), kLast);
        CHECK_THROWS(cpu_isa(), name);
        CHECK_THROWS(open_backend("cpu", 1), "not a known name");
        try {
            cpu_isa();
        } catch (const Error &error) {
            CHECK(error.status == RWKV_UNSUPPORTED);
        }
        const char *out = nullptr;
        CHECK(rwkv_cpu_isa(&out) == RWKV_UNSUPPORTED);
    }
    setenv("RWKV_CPU_ISA", kElsewhere, 1);
    CHECK_THROWS(cpu_isa(), "not usable on this machine");
    unsetenv("RWKV_CPU_ISA");
}

void test_threads() {
    namespace fs = std::filesystem;
    std::string folder = "rwkv_threads_";
    folder += std::to_string(getpid());
    const fs::path root = fs::temp_directory_path() / folder;
    const auto write = [&](const std::string &path, const std::string &text) {
        fs::create_directories((root / path).parent_path());
        std::ofstream(root / path) << text << "\n";
    };
    const auto quota = [&] { return cpu::quota_threads(root.string()); };
    CHECK(quota() == 0);
    write("proc/self/cgroup", "0::/a/b");
    write("sys/fs/cgroup/a/b/cpu.max", "max 100000");
    CHECK(quota() == 0);
    write("sys/fs/cgroup/a/cpu.max", "350000 100000");  // the parent's limit holds as well
    CHECK(quota() == 3);
    write("sys/fs/cgroup/a/b/cpu.max", "150000 100000");
    CHECK(quota() == 1);
    write("sys/fs/cgroup/a/b/cpu.max", "20000 100000");
    CHECK(quota() == 1);
    CHECK(cpu::automatic_threads(root.string()) == 1);
    fs::remove_all(root);
    write("proc/self/cgroup", "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x");
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
    CHECK(quota() == 0);
    write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000");
    write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
    CHECK(quota() == 2);
    fs::remove_all(root);
    CHECK(cpu::automatic_threads() >= 1);
    CHECK(open_backend("cpu", 0)->threads() == cpu::automatic_threads());
}

}  // namespace

int main() {
    skip_unless_isa_usable();
    test_choice();
    test_unknown();
    test_threads();
    return report();
}
