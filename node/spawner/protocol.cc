#include "node/spawner/protocol.h"

#include <cstring>

#include "common/base/limits.h"
#include "node/spawner/wire.h"

namespace ublk_operator {

using nlohmann::json;

std::string ExitNotice::to_string() const {
  if (signal == 0) return "exited with status " + std::to_string(exit_code);
  const char* name = sigabbrev_np(signal);
  const std::string number = std::to_string(signal);
  return (name != nullptr ? "killed by SIG" + std::string(name) + " (" + number + ")"
                          : "killed by signal " + number) +
         (out_of_memory ? ", out of memory" : "");
}

json to_json(const SpawnRequest& request) {
  return {{"type", "spawn"},
          {"program", request.program},
          {"arena_bytes", request.arena_bytes},
          {"memory_max_bytes", request.memory_max_bytes}};
}

Result<SpawnRequest> spawn_request_from_json(const json& body) {
  auto program = wire::text_field(body, "program");
  if (!program) return std::move(program).error();
  auto arena = wire::number_field<uint64_t>(body, "arena_bytes");
  if (!arena) return std::move(arena).error();
  auto memory = wire::number_field<uint64_t>(body, "memory_max_bytes");
  if (!memory) return std::move(memory).error();
  if (program->empty() || program->front() != '/' || program->back() == '/' ||
      program->size() > limits::program_path_bytes_max || program->find('\0') != std::string::npos)
    return Error{EINVAL, "spawn", *program,
                 "the program is an absolute path of at most " +
                     std::to_string(limits::program_path_bytes_max) + " bytes"};
  return SpawnRequest{std::move(program).value(), *arena, *memory};
}

json to_json(const ServerInfo& info) {
  return {{"id", info.id},
          {"pid", info.pid},
          {"uid", info.uid},
          {"program", info.program},
          {"arena_bytes", info.arena_bytes},
          {"volume", info.volume},
          {"generation", info.generation}};
}

Result<ServerInfo> server_info_from_json(const json& body) {
  if (!body.is_object()) return Error{EPROTO, "parse", "server", "expected an object"};
  ServerInfo info;
  auto id = wire::number_field<uint64_t>(body, "id");
  if (!id) return std::move(id).error();
  auto pid = wire::number_field<pid_t>(body, "pid");
  if (!pid) return std::move(pid).error();
  auto uid = wire::number_field<uid_t>(body, "uid");
  if (!uid) return std::move(uid).error();
  auto program = wire::text_field(body, "program");
  if (!program) return std::move(program).error();
  auto arena = wire::number_field<uint64_t>(body, "arena_bytes");
  if (!arena) return std::move(arena).error();
  auto volume = wire::text_field(body, "volume");
  if (!volume) return std::move(volume).error();
  auto generation = wire::number_field<uint64_t>(body, "generation");
  if (!generation) return std::move(generation).error();
  return ServerInfo{
      *id, *pid, *uid, std::move(program).value(), *arena, std::move(volume).value(), *generation};
}

json to_json(const ExitNotice& notice) {
  json body{{"type", "exited"}, {"id", notice.id}, {"pid", notice.pid}};
  if (notice.signal != 0)
    body["signal"] = notice.signal;
  else
    body["code"] = notice.exit_code;
  if (notice.out_of_memory) body["outOfMemory"] = true;
  return body;
}

Result<ExitNotice> exit_notice_from_json(const json& body) {
  ExitNotice notice;
  auto id = wire::number_field<uint64_t>(body, "id");
  if (!id) return std::move(id).error();
  auto pid = wire::number_field<pid_t>(body, "pid");
  if (!pid) return std::move(pid).error();
  auto how = wire::number_field<int>(body, body.contains("signal") ? "signal" : "code");
  if (!how) return std::move(how).error();
  notice.id = *id;
  notice.pid = *pid;
  (body.contains("signal") ? notice.signal : notice.exit_code) = *how;
  notice.out_of_memory = body.contains("outOfMemory");  // from spawners that know it
  return notice;
}

}  // namespace ublk_operator
