#include "cli/ublkctl.h"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <utility>

#include "CLI/CLI.hpp"
#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/version.h"
#include "common/base/limits.h"
#include "common/base/strings.h"
#include "common/localapi/protocol.h"

namespace ublk_operator {
namespace {

constexpr const char* kExitCodes =
    "Exit codes:\n"
    "  0  done\n"
    "  1  the agent could not do it, or something failed here\n"
    "  2  wrong arguments, or a manifest that is not valid; nothing was changed\n"
    "  3  no volume of that name\n"
    "  4  timed out: wait was not met in time, or the agent did not answer (the outcome is "
    "unknown)\n"
    "  5  refused because the device is in use (stop --force overrides)\n"
    "  6  the agent cannot be reached";

// All that can be on the command line, and what it means once parsed.
class CommandLine {
 public:
  explicit CommandLine(const Environment& environment);
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  ExitCode run(const std::vector<std::string>& arguments);

 private:
  using Run = std::function<ExitCode(const Session&)>;

  CLI::App* command(const std::string& name, const std::string& what, Run run);
  void add_reading();
  void add_changing();
  void add_helping();
  void add_cluster();
  ExitCode refuse(const std::vector<std::string>& arguments, const std::string& why) const;

  // Every call of it fails with the reason why it could not be reached.
  class Unreached;
  std::unique_ptr<VolumeService> connect(bool cluster) const;

  const Environment& environment_;
  const std::string program_;
  CLI::App app_;
  std::vector<std::pair<CLI::App*, Run>> commands_;

  std::string socket_ = kLocalApiSocket;
  ClusterTarget cluster_;
  CLI::Option* socket_option_ = nullptr;
  CLI::Option* context_option_ = nullptr;
  CLI::Option* kubeconfig_option_ = nullptr;
  GetOptions get_;
  DescribeOptions describe_;
  EventsOptions events_;
  WaitOptions wait_;
  ApplyOptions apply_;
  DeleteOptions delete_;
  SupportBundleOptions bundle_;
  std::vector<std::string> names_;  // of the commands that take nothing else
  bool force_ = false;
  bool replace_server_ = false;
  std::string preflight_output_ = "table";
  std::string shell_;
};

CommandLine::CommandLine(const Environment& environment)
    : environment_(environment),
      program_(environment.plugin ? "kubectl ublk" : "ublkctl"),
      app_(
          "Volumes whose server may die while their applications go on: look at them, change them.",
          program_) {
  app_.require_subcommand(1);
  app_.fallthrough();  // --socket may also come after the command
  app_.footer(kExitCodes);
  app_.set_version_flag("--version", program_ + " " + kVersion, "print the version");
  socket_option_ = app_.add_option("--socket", socket_, "the socket of this machine's agent")
                       ->capture_default_str()
                       ->type_name("PATH");
  if (!environment.plugin) socket_option_->envname("UBLK_SOCKET");
  if (environment.connect_cluster) add_cluster();
  add_reading();
  add_changing();
  add_helping();
}

CLI::App* CommandLine::command(const std::string& name, const std::string& what, Run run) {
  CLI::App* added = app_.add_subcommand(name, what);
  added->footer("See '" + program_ + " --help' for the exit codes.");
  commands_.emplace_back(added, std::move(run));
  return added;
}

void CommandLine::add_cluster() {
  constexpr const char* group = "A cluster's volumes, by its API server";
  context_option_ =
      app_.add_option("--context", cluster_.context, "of the kubeconfig (default: its current one)")
          ->group(group)
          ->type_name("NAME");
  kubeconfig_option_ = app_.add_option("--kubeconfig", cluster_.kubeconfig,
                                       "which API server (default: $KUBECONFIG, ~/.kube/config, or "
                                       "the pod's service account)")
                           ->group(group)
                           ->type_name("FILE");
  app_.add_option("-n,--namespace", cluster_.namespace_name,
                  "where the operator is; volumes have no namespace")
      ->group(group)
      ->capture_default_str()
      ->type_name("NAME");
}

void add_output(CLI::App* command, std::string& value, const std::vector<std::string>& formats) {
  command->add_option("-o,--output", value, "format: " + join(formats, ", "))
      ->check(CLI::IsMember(formats))
      ->capture_default_str()
      ->type_name("FORMAT");
}

// One value a flag, so that "-f FILE NAME" does not take NAME for a file.
CLI::Option* add_files(CLI::App* command, std::vector<std::string>& files) {
  return command
      ->add_option("-f,--filename", files,
                   "a manifest, a folder of manifests, or - for standard input; may be repeated")
      ->allow_extra_args(false)
      ->type_name("FILE");
}

// Refused before anything is done: in an API server's paths an empty name would mean all volumes.
CLI::Option* check_names(CLI::Option* option) {
  return option->type_name("")->check([](const std::string& name) {
    constexpr const char* letters = "abcdefghijklmnopqrstuvwxyz0123456789-.";
    const bool is_name = !name.empty() && name.size() <= limits::volume_name_bytes_max &&
                         name.front() != '.' &&
                         name.find_first_not_of(letters) == std::string::npos;
    return is_name ? std::string()
                   : "'" + name + "' is no volume's name: lower case letters, digits, '-' and '.'";
  });
}

CLI::Option* add_names(CLI::App* command, std::vector<std::string>& names) {
  return check_names(command->add_option("NAME", names, "volumes"));
}

void CommandLine::add_reading() {
  CLI::App* get = command("get", "List volumes, or some of them",
                          [this](const Session& session) { return get_volumes(session, get_); });
  add_names(get, get_.names);
  add_output(get, get_.output, {"table", "wide", "json", "yaml", "name"});

  CLI::App* describe =
      command("describe", "Show all about volumes: spec, status, conditions, I/O counters, events",
              [this](const Session& session) { return describe_volumes(session, describe_); });
  add_names(describe, describe_.names)->required();
  add_output(describe, describe_.output, {"text", "json", "yaml"});

  CLI::App* events =
      command("events", "Show what happened to volumes",
              [this](const Session& session) { return show_events(session, events_); });
  check_names(events->add_option("NAME", events_.name, "only of this volume"));
  add_output(events, events_.output, {"table", "wide", "json", "yaml"});
  events->add_flag("-w,--watch", events_.watch, "go on with what happens from now on");
  events->add_option("--timeout", events_.timeout, "with --watch: end after this time")
      ->type_name("DURATION");

  CLI::App* wait =
      command("wait", "Wait until volumes are as wanted, also ones that do not exist yet",
              [this](const Session& session) { return wait_for_volumes(session, wait_); });
  add_names(wait, wait_.names);
  wait->add_flag("--all", wait_.all, "all volumes there are now");
  wait->add_option("--for", wait_.wanted,
                   "Ready, condition=TYPE[=True|False|Unknown], delete, or FIELD=VALUE such as "
                   "state=LIVE")
      ->required()
      ->type_name("WHAT");
  wait->add_option("--timeout", wait_.timeout, "how long, for all of them; 0s looks once")
      ->capture_default_str()
      ->type_name("DURATION");
}

void CommandLine::add_changing() {
  CLI::App* apply =
      command("apply", "Make volumes as manifests say, or change them",
              [this](const Session& session) { return apply_manifests(session, apply_); });
  add_files(apply, apply_.files)->required();
  apply->add_flag("--dry-run", apply_.dry_run, "only check the manifests; needs no agent");

  CLI::App* remove =
      command("delete", "Remove volumes; each goes as soon as it is not in use",
              [this](const Session& session) { return delete_volumes(session, delete_); });
  add_names(remove, delete_.names);
  add_files(remove, delete_.files);
  remove->add_flag("--wait", delete_.wait, "until they are gone");
  remove->add_flag("--ignore-not-found", delete_.ignore_not_found,
                   "a volume that does not exist is no error");
  remove->add_option("--timeout", delete_.timeout, "with --wait: how long")
      ->capture_default_str()
      ->type_name("DURATION");

  CLI::App* stop =
      command("stop", "Stop devices until they are started again; refused while in use",
              [this](const Session& session) { return stop_volumes(session, names_, force_); });
  add_names(stop, names_)->required();
  stop->add_flag("--force", force_, "also while in use: waiting and new I/O fails with EIO");

  add_names(command("start", "Start stopped volumes",
                    [this](const Session& session) { return start_volumes(session, names_); }),
            names_)
      ->required();

  CLI::App* recover = command(
      "recover", "Recover volumes now: forget back-off and the crash-loop verdict",
      [this](const Session& session) { return recover_volumes(session, names_, replace_server_); });
  add_names(recover, names_)->required();
  recover->add_flag("--replace-server", replace_server_,
                    "also kill a server that seems to live but hangs");

  add_names(command("pause", "Leave volumes alone: nothing is started, stopped or recovered",
                    [this](const Session& session) {
                      return pause_volumes(session, names_, /*paused=*/true);
                    }),
            names_)
      ->required();
  add_names(command("resume", "Take care of paused volumes again",
                    [this](const Session& session) {
                      return pause_volumes(session, names_, /*paused=*/false);
                    }),
            names_)
      ->required();
}

void CommandLine::add_helping() {
  CLI::App* bundle =
      command("support-bundle", "Collect what a bug report needs into one JSON file",
              [this](const Session& session) {
                return write_support_bundle(session, bundle_, environment_.local_facts);
              });
  bundle->add_option("-o,--output", bundle_.output, "the file; standard output unless given")
      ->type_name("FILE");

  CLI::App* preflight = command(
      "preflight", "Say what this machine's kernel can do, and what to do about what it cannot",
      [this](const Session& session) {
        return print_preflight(session, environment_.preflight(), preflight_output_ == "json");
      });
  add_output(preflight, preflight_output_, {"table", "json"});

  CLI::App* completion =
      command("completion", "Print a shell's completion script", [](const Session& session) {
        session.out << bash_completion();
        return ExitCode::ok;
      });
  completion->add_option("SHELL", shell_, "bash")
      ->required()
      ->check(CLI::IsMember({"bash"}))
      ->type_name("");

  command("version", "Print the version", [](const Session& session) {
    session.out << session.program << " " << kVersion << "\n";
    return ExitCode::ok;
  });
}

// Of the options that may come before the command.
bool takes_value(const std::string& word) {
  for (const char* option : {"--socket", "--context", "--kubeconfig", "--namespace", "-n"})
    if (word == option) return true;
  return false;
}

ExitCode CommandLine::refuse(const std::vector<std::string>& arguments,
                             const std::string& why) const {
  std::string what = why;
  std::string help = program_ + " --help";
  // CLI11 says of a mistyped command only that one is missing.
  auto word = arguments.begin();
  while (word != arguments.end() && word->starts_with('-'))
    word += takes_value(*word) && word + 1 != arguments.end() ? 2 : 1;
  if (!app_.get_subcommands().empty()) {
    help = program_ + " " + app_.get_subcommands().back()->get_name() + " --help";
  } else if (word != arguments.end()) {
    std::vector<std::string> names;
    for (const auto& [command, run] : commands_) names.push_back(command->get_name());
    what = "unknown command '" + *word + "'";
    if (const std::string near = nearest(*word, names); !near.empty())
      what += " (did you mean '" + near + "'?)";
  }
  environment_.err << program_ << ": " << what << "\nSee '" << help << "'.\n";
  return ExitCode::usage;
}

class CommandLine::Unreached final : public VolumeService {
 public:
  explicit Unreached(Error why) : why_(std::move(why)) {}
  std::vector<Volume> list() override { return {}; }
  Result<Volume> get(const std::string&) override { return why_; }
  std::vector<VolumeEvent> events(const std::string&) override { return {}; }
  Result<std::vector<std::string>> apply(const std::string&) override { return why_; }
  Result<void> remove(const std::string&) override { return why_; }
  Result<void> stop(const std::string&, bool, bool) override { return why_; }
  Result<void> recover(const std::string&, bool) override { return why_; }
  Result<void> pause(const std::string&, bool) override { return why_; }
  nlohmann::json support_bundle() override { return nullptr; }
  uint64_t watch(OnChange) override { return 0; }
  void unwatch(uint64_t) override {}
  Result<void> reachable() override { return why_; }

 private:
  const Error why_;
};

std::unique_ptr<VolumeService> CommandLine::connect(bool cluster) const {
  if (!cluster) return environment_.connect(socket_);
  auto service = environment_.connect_cluster(cluster_);
  if (service) return std::move(*service);
  // A missing kubeconfig is no missing volume, and some commands need no cluster.
  Error why = std::move(service).error();
  if (why.err == ENOENT) why.err = ENOTCONN;
  return std::make_unique<Unreached>(std::move(why));
}

ExitCode CommandLine::run(const std::vector<std::string>& arguments) {
  try {
    app_.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::Success& asked) {  // --help, --version
    (void)app_.exit(asked, environment_.out, environment_.err);
    return ExitCode::ok;
  } catch (const CLI::ParseError& error) {
    return refuse(arguments, error.what());
  }
  const bool named =
      context_option_ != nullptr && (!context_option_->empty() || !kubeconfig_option_->empty());
  const bool cluster = named || (environment_.plugin && socket_option_->empty());
  const std::unique_ptr<VolumeService> service = connect(cluster);
  const Session session{*service,         environment_.in, environment_.out,
                        environment_.err, cluster,         program_};
  for (const auto& [command, run] : commands_) {
    if (command->parsed()) return run(session);
  }
  return ExitCode::usage;  // require_subcommand() leaves no way here
}

}  // namespace

int run_ublkctl(const std::vector<std::string>& arguments, const Environment& environment) {
  try {
    return static_cast<int>(CommandLine(environment).run(arguments));
  } catch (const CLI::Error& error) {
    environment.err << "ublkctl: " << error.what() << "\n";
    return static_cast<int>(ExitCode::failed);
  }
}

}  // namespace ublk_operator
