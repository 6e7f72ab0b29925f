// See threads.h.
#include "cpu/threads.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

namespace rwkv::cpu {

namespace {

// The first line of a file; "" if it cannot be read.
std::string first_line(const std::string &path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// CPUs that quota microseconds per period are worth, rounded down: a thread that the quota stops in
// the middle of a step makes all others wait for it.
int whole_cpus(double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return 0;
    return std::max(1, static_cast<int>(std::min(quota / period, 4096.0)));
}

int tighter(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

int quota_v2(const std::string &group) {
    std::istringstream line(first_line(group + "/cpu.max"));
    double quota = 0, period = 0;
    if (!(line >> quota >> period)) return 0;  // "max 100000"
    return whole_cpus(quota, period);
}

int quota_v1(const std::string &group) {
    std::istringstream quota_line(first_line(group + "/cpu.cfs_quota_us"));
    std::istringstream period_line(first_line(group + "/cpu.cfs_period_us"));
    double quota = 0, period = 0;
    if (!(quota_line >> quota) || !(period_line >> period)) return 0;  // -1 is no quota
    return whole_cpus(quota, period);
}

// The tightest quota of `path` and its parents below `mount`. In a container the path is often the
// host's and does not exist below the mount; the mount's own files then speak for the container.
template <class Quota>
int tightest(const std::string &mount, std::string path, Quota quota) {
    int cpus = quota(mount);
    while (path.size() > 1) {
        cpus = tighter(cpus, quota(mount + path));
        path.resize(path.rfind('/'));
    }
    return cpus;
}

}  // namespace

int quota_threads(const std::string &root) {
    int cpus = 0;
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // number:controllers:path
        const size_t first = line.find(':');
        const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (!path.empty() && path[0] != '/') continue;
        if (controllers.empty())
            for (const char *mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"})
                cpus = tighter(cpus, tightest(root + mount, path, quota_v2));
        else if (("," + controllers + ",").find(",cpu,") != std::string::npos)
            for (const std::string &mount : {std::string("cpu"), controllers})
                cpus = tighter(cpus, tightest(root + "/sys/fs/cgroup/" + mount, path, quota_v1));
    }
    return cpus;
}

int automatic_threads(const std::string &root) {
    int count = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 0) {
        count = CPU_COUNT(&allowed);
        // Two hardware threads of one core name the same siblings.
        std::set<std::string> cores;
        bool known = true;
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (!CPU_ISSET(cpu, &allowed)) continue;
            const std::string siblings =
                first_line(root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                           "/topology/thread_siblings_list");
            known = known && !siblings.empty();
            cores.insert(siblings);
        }
        if (known) count = std::min(count, static_cast<int>(cores.size()));
    }
    return std::max(1, tighter(count, quota_threads(root)));
}

}  // namespace rwkv::cpu
