// First process of every pod: holds its namespaces, reaps what is orphaned there, leaves when told to.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, NULL, WNOHANG) > 0) {} }

int main(void) {
  struct sigaction on_child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
  if (sigaction(SIGCHLD, &on_child, NULL) || signal(SIGTERM, leave) == SIG_ERR || signal(SIGINT, leave) == SIG_ERR) return 1;
  for (;;) pause();
}
