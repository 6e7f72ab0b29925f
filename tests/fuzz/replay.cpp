// The main() of a fuzz target where there is no libFuzzer: runs it once for each file that is
// named. Prints the number of files; a wrong claim or a sanitizer ends the process, the file named
// last.
#include "fuzz.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

int main(int count, char **arguments) {
    for (int i = 1; i < count; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "cannot open %s\n", arguments[i]);
            return 1;
        }
        const std::string raw{std::istreambuf_iterator<char>(file), {}};
        std::fprintf(stderr, "%s\n", arguments[i]);
        // A copy of the exact size, so that a read past its end is one past the allocation.
        const std::vector<uint8_t> bytes(raw.begin(), raw.end());
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("replayed %d\n", count - 1);
    return 0;
}
