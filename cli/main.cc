// ublkctl: looks at and changes the volumes of the agent on this machine.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cli/local_facts.h"
#include "cli/preflight.h"
#include "cli/ublkctl.h"
#include "common/localapi/client.h"

int main(int argc, char** argv) {
  using namespace ublk_operator;
  const Environment environment{
      .in = std::cin,
      .out = std::cout,
      .err = std::cerr,
      .connect = [](const std::string& socket) { return std::make_unique<LocalApiClient>(socket); },
      .preflight = [] { return preflight(); },
      .local_facts = [] { return local_facts(preflight()); },
  };
  const int code = run_ublkctl(std::vector<std::string>(argv + 1, argv + argc), environment);
  std::cout.flush();
  if (!std::cout) {
    std::cerr << "ublkctl: cannot write the output\n";
    return code == 0 ? static_cast<int>(ExitCode::failed) : code;
  }
  return code;
}
