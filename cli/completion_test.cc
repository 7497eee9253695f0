// The completion script, in a real bash with a stand-in for ublkctl.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "cli/test_support.h"

namespace ublk_operator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;

class CompletionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("bash -c true") != 0) GTEST_SKIP() << "there is no bash here";  // NOLINT
    std::string pattern = ::testing::TempDir() + "completion.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    std::ofstream(dir_ + "/completion.bash") << script();
  }
  void TearDown() override {
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }
  std::string script() { return run_on(service_, {"completion", "bash"}).out; }

  // What bash offers when the words so far are these; the last one is being typed.
  std::vector<std::string> complete(const std::vector<std::string>& words) {
    std::ofstream test(dir_ + "/test.bash");
    test << "ublkctl() { [[ $* == *'get -o name' ]] && printf 'pgdata\\npgwal\\nscratch\\n'; }\n"
         << "source " << dir_ << "/completion.bash\nCOMP_WORDS=(ublkctl";
    for (const std::string& word : words) test << " '" << word << "'";
    test << ")\nCOMP_CWORD=" << words.size()
         << "\n_ublkctl\n((${#COMPREPLY[@]})) && printf '%s\\n' \"${COMPREPLY[@]}\"\ntrue\n";
    test.close();
    std::unique_ptr<FILE, int (*)(FILE*)> pipe(
        ::popen(("bash " + dir_ + "/test.bash 2>&1").c_str(), "r"), ::pclose);  // NOLINT
    std::vector<std::string> offered;
    std::array<char, 256> line{};
    while (std::fgets(line.data(), line.size(), pipe.get()) != nullptr) {
      offered.emplace_back(line.data());
      offered.back().pop_back();
    }
    return offered;
  }

  FakeVolumeService service_;
  std::string dir_;
};

TEST_F(CompletionTest, CommandsVolumesOptionsAndTheirValues) {
  EXPECT_THAT(complete({"de"}), ElementsAre("describe", "delete"));
  EXPECT_THAT(complete({"describe", "pg"}), ElementsAre("pgdata", "pgwal"));
  EXPECT_THAT(complete({"get", "-o", ""}), ElementsAre("table", "wide", "json", "yaml", "name"));
  EXPECT_THAT(complete({"stop", "--f"}), ElementsAre("--force"));
  EXPECT_THAT(complete({"wait", "pgdata", "--for", "=", "Re"}), ElementsAre("Ready"));
  EXPECT_THAT(complete({"--socket", "/run/x.sock", "pause", "scr"}), ElementsAre("scratch"));
  EXPECT_THAT(complete({"version", ""}), IsEmpty());
  EXPECT_THAT(complete({"apply", "-f", dir_ + "/comp"}), ElementsAre(dir_ + "/completion.bash"));
}

TEST_F(CompletionTest, EveryCommandAndLongOptionIsInTheScript) {
  std::istringstream help(run_on(service_, {"--help"}).out);
  std::vector<std::string> commands;
  bool listed = false;
  for (std::string line; std::getline(help, line);) {
    if (line == "Subcommands:") {
      listed = true;
    } else if (listed && line.starts_with("  ") && line[2] != ' ') {
      commands.push_back(line.substr(2, line.find(' ', 2) - 2));
    } else if (listed && line.empty()) {
      break;
    }
  }
  ASSERT_GE(commands.size(), 15U);
  EXPECT_THAT(complete({""}), IsSupersetOf(commands));
  for (const std::string& command : commands) {
    std::istringstream text(run_on(service_, {command, "--help"}).out);
    std::vector<std::string> options;
    for (std::string line; std::getline(text, line);) {
      const size_t begin = line.find("--");
      if (!line.starts_with("  -") || begin == std::string::npos) continue;
      options.push_back(line.substr(begin, line.find_first_of(" ,", begin) - begin));
    }
    ASSERT_FALSE(options.empty()) << command;
    const auto offered = complete({command, "--"});
    for (const std::string& option : options)
      EXPECT_THAT(offered, ::testing::Contains(option)) << command;
  }
}

}  // namespace
}  // namespace ublk_operator
