# How the project declares its targets: one set of warnings for all, and one place that says where programs and
# tests are put (./dev test runs what it finds there).
#   ublk_library(NAME SOURCES a.cc b.cc LINK PUBLIC x PRIVATE y)   the library ublk_NAME
#   ublk_program(NAME [NOINSTALL] SOURCES main.cc LINK ...)        build/<preset>/bin/NAME
#   ublk_test(NAME SOURCES a_test.cc LINK ...)                     build/<preset>/unit/NAME
#   ublk_test(NAME VM [TIMEOUT 900] SOURCES ... LINK ...)          build/<preset>/vm/NAME: needs root and a kernel with ublk_drv;
#                                                                  TIMEOUT: seconds, instead of VM_LIMIT of tests/lab/test.sh
#   ublk_test(NAME SYSTEMD SOURCES ... LINK ...)                   build/<preset>/systemd/NAME: needs a machine under systemd too
#   ublk_test(NAME CLUSTER [TIMEOUT 900] SOURCES ... LINK ...)     build/<preset>/cluster/NAME: needs an API server, tests/cluster/apiserver.sh

add_library(ublk_options INTERFACE)
target_include_directories(ublk_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(ublk_options INTERFACE
  -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor
  -Woverloaded-virtual -Wimplicit-fallthrough -Wformat=2 -fno-omit-frame-pointer)
# What is shipped is GCC's; the sanitizers are Clang's: it takes little more than half of GCC's time to compile with them, and a
# second compiler reads the code.
# _FORTIFY_SOURCE needs optimisation; the sanitizer builds are for finding the same faults better, and
# their reports need lines, not variables. Optimising them costs more than it saves: they are compiled
# more often than their tests, which wait more than they compute, would pay back.
if(UBLK_SANITIZE)
  target_compile_options(ublk_options INTERFACE -fsanitize=${UBLK_SANITIZE} -fno-sanitize-recover=all -g1)
  target_link_options(ublk_options INTERFACE -fsanitize=${UBLK_SANITIZE})
else()
  target_compile_options(ublk_options INTERFACE -fstack-protector-strong -D_FORTIFY_SOURCE=2)
  target_link_options(ublk_options INTERFACE -Wl,-z,relro,-z,now)
endif()

function(ublk_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_library(ublk_${name} STATIC ${arg_SOURCES})
  target_link_libraries(ublk_${name} PUBLIC ublk_options ${arg_LINK})
endfunction()

function(ublk_program name)
  cmake_parse_arguments(arg "NOINSTALL" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ublk_options ${arg_LINK})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(NOT arg_NOINSTALL)
    install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endfunction()

function(ublk_test name)
  cmake_parse_arguments(arg "VM;SYSTEMD;CLUSTER" "TIMEOUT" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ublk_options ${arg_LINK} GTest::gmock GTest::gtest_main)
  # Test code need not be fast: this halves the time that compiling it takes.
  if(NOT UBLK_SANITIZE)
    target_compile_options(${name} PRIVATE -O1 -g1)
  endif()
  set(room unit)
  if(arg_VM)
    set(room vm)
  elseif(arg_SYSTEMD)
    set(room systemd)
  elseif(arg_CLUSTER)
    set(room cluster)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/${room})
  if(arg_TIMEOUT)
    file(WRITE ${CMAKE_BINARY_DIR}/${room}/${name}.timeout "${arg_TIMEOUT}\n")
  else()
    file(REMOVE ${CMAKE_BINARY_DIR}/${room}/${name}.timeout)
  endif()
endfunction()
