/* init.c - the whole userland of the Linux guest: it is /init, statically linked.
 *
 * Kernel command line: dmb=<MiB of working set> dmode=sparse|mid|half|full|idle drate=<pages touched per second, 0: idle>
 * A touch of a random page writes: sparse 32 random bytes in it, mid small increments of 64 counters, half one half of
 * it, full all of it (random bytes).
 * It fills the working set with rows of text that look like records, prints READY, then
 *   - a SCHED_FIFO child prints "T <guest monotonic ms> <pages touched so far>" every 20 ms,
 *   - the parent dirties pages, paced against absolute deadlines (no catching up beyond 100 ms). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static uint64_t s = 88172645463325252ull;
static inline uint64_t r(void) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; return s; }
static int64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ll + t.tv_nsec; }
static void until(int64_t ns) {
  struct timespec t = { ns / 1000000000ll, ns % 1000000000ll };
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);
}
static char *put(char *p, const char *k, uint64_t v, int w) {  /* "<k><v, zero padded to w digits>" */
  while (*k) *p++ = *k++;
  for (int i = w - 1; i >= 0; i--) { p[i] = '0' + v % 10; v /= 10; }
  return p + w;
}
static long arg(const char *cmd, const char *key, long dflt) {
  const char *p = strstr(cmd, key);
  return p ? atol(p + strlen(key)) : dflt;
}
static void tick(volatile uint64_t *touched) {
  struct sched_param sp = { .sched_priority = 50 };
  sched_setscheduler(0, SCHED_FIFO, &sp);
  for (int64_t t = now_ns();;) {
    char b[64];
    int n = snprintf(b, sizeof b, "T %lld %llu\n", (long long)(now_ns() / 1000000), (unsigned long long)*touched);
    if (write(1, b, n) < 0) {}
    t += 20000000;
    if (t < now_ns()) t = now_ns();
    until(t);
  }
}

int main(void) {
  char cmd[1024] = "", mode = 's';
  mkdir("/proc", 0755); mkdir("/dev", 0755);
  mount("proc", "/proc", "proc", 0, 0); mount("dev", "/dev", "devtmpfs", 0, 0);
  int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
  if (fd >= 0) { dup2(fd, 0); dup2(fd, 1); dup2(fd, 2); }
  fd = open("/proc/cmdline", O_RDONLY);
  if (fd >= 0 && read(fd, cmd, sizeof cmd - 1) < 0) cmd[0] = 0;
  char *m = strstr(cmd, "dmode="); if (m) mode = m[6];
  size_t n = (size_t)arg(cmd, "dmb=", 128) << 20, pages = n / 4096;
  long rate = mode == 'i' ? 0 : arg(cmd, "drate=", 0);
  printf("GUEST UP dmb=%zu dmode=%c drate=%ld\n", n >> 20, mode, rate); fflush(stdout);

  uint8_t *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  volatile uint64_t *touched = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || touched == MAP_FAILED) { printf("NO MEMORY\n"); for (;;) pause(); }
  for (size_t i = 0; i < n; i += 64) {  /* row=%08zu acct=%06llu bal=%010llu st=%c| */
    char *q = put((char *)p + i, "row=", i / 64, 8);
    q = put(q, " acct=", r() % 1000000, 6);
    q = put(q, " bal=", r() % 10000000000ull, 10);
    memcpy(q, " st=", 4); q[4] = "AIPX"[r() & 3]; q[5] = '|';
  }
  printf("READY\n"); fflush(stdout);
  if (fork() == 0) tick(touched);

  long per = rate / 100, extra = rate % 100;
  for (int64_t t = now_ns();; ) {
    for (long i = 0; i < per + (extra > 0); i++) {
      uint8_t *q = p + (r() % pages) * 4096;
      if (mode == 's') for (int k = 0; k < 4; k++) *(uint64_t *)(q + (r() % 512) * 8) = r();
      else if (mode == 'm') { uint64_t o = (r() % 7) * 512; for (int k = 0; k < 64; k++) *(uint64_t *)(q + o + k * 8) += r() & 0xff; }
      else if (mode == 'h') { uint64_t o = (r() & 1) * 2048; for (int k = 0; k < 256; k++) *(uint64_t *)(q + o + k * 8) = r(); }
      else for (int k = 0; k < 512; k++) ((uint64_t *)q)[k] = r();
      ++*touched;
    }
    t += rate ? 10000000 : 1000000000;
    if (now_ns() - t > 100000000) t = now_ns();
    until(t);
  }
}
