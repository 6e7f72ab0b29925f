// How many threads this process should use: the least of its physical cores, its affinity and the
// CPU quota of its control groups. Asked once when a backend is opened with threads = 0.
#pragma once

#include <string>

namespace rwkv::cpu {

// `root` stands before /proc and /sys, so that tests can bring their own.
int automatic_threads(const std::string &root = "");
// Whole CPUs of the tightest quota on the way from this process's group to the root, at least 1; 0
// if there is none. cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us).
int quota_threads(const std::string &root = "");

}  // namespace rwkv::cpu
