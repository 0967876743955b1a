// main() of the drivers: runs the cases whose names contain an argument, or all.
#include "drive.h"

#include <chrono>
#include <vector>

namespace drive {
int failures = 0;
struct Case {
  const char* name;
  void (*run)();
};
static std::vector<Case>& cases() {
  static std::vector<Case> c;
  return c;
}
Register::Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
}  // namespace drive

int main(int argc, char** argv) {
  int ran = 0;
  for (const auto& c : drive::cases()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted |= std::strstr(c.name, argv[i]) != nullptr;
    if (!wanted) continue;
    const int before = drive::failures;
    const auto start = std::chrono::steady_clock::now();
    try {
      c.run();
    } catch (const std::exception& e) {
      std::printf("  FAIL %s: %s\n", c.name, e.what());
      ++drive::failures;
    }
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%-28s %s  %.2f s\n", c.name, drive::failures == before ? "ok" : "FAILED", s);
    std::fflush(stdout);
    ++ran;
  }
  std::printf("%d cases, %d failures\n", ran, drive::failures);
  return drive::failures || !ran;
}
