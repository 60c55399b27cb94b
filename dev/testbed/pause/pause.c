/* Holds namespaces, reaps orphans, ends on SIGTERM: the first process of every pod, and of the node itself.
   As PID 1 it must wait for children that its own children leave behind; nothing else is asked of it. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0); }

int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
