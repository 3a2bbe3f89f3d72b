// hog stands in for nmap, and takes what it can get. Which resource, the port says that it is
// asked to scan: 1001 memory, 1002 processes, 1003 processor time, 1004 time, 1005 reads from the
// disk, 1006 writes to it, 1007 60 MiB and no more, 1008 crashes, 1009 time, after it has found port 80
// of its target open; any other ends at once. Built as
// hog-crowd, it takes threads when it is asked for its version: that box alone lets a scanner have
// any. It is linked statically and needs nothing but a few system calls.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *idle(void *nothing) {
	while (pause() < 0) // a signal was caught; on with it
		;
	return nothing;
}

static void memory(int mib) {
	for (; mib; mib--) {
		char *p = malloc(1 << 20);
		if (p)
			memset(p, 1, 1 << 20);
	}
}

// Past the cache in memory, so that all that is read and written goes to the disk and back.
static char block[256 << 10] __attribute__((aligned(4096)));

static void reads(void) {
	int fd = open("/usr/local/bin/hog", O_RDONLY | O_DIRECT); // itself
	for (;;)
		if (read(fd, block, sizeof block) <= 0)
			lseek(fd, 0, SEEK_SET);
}

static void writes(void) {
	fcntl(1, F_SETFL, O_APPEND | O_DIRECT);
	for (;;)
		write(1, block, sizeof block);
}

// crowd makes threads until it is refused one, and keeps them long enough to be counted.
static int crowd(void) {
	pthread_t thread;
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	for (int made = 1; made < 1000; made++)
		if (pthread_create(&thread, &small, idle, NULL)) {
			printf("refused after %d\n", made);
			sleep(4);
			return 1;
		}
	return 0;
}

static void processes(void) {
	for (;;) {
		pthread_t thread;
		pthread_attr_t small;
		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, 16384);
		if (pthread_create(&thread, &small, idle, NULL) && fork() == 0)
			idle(NULL);
	}
}

int main(int argc, char **argv) {
	char all[65536] = "";
	for (int i = 1; i < argc && strlen(all) + strlen(argv[i]) + 2 < sizeof all; i++)
		strcat(strcat(all, " "), argv[i]);
	if (strstr(all, "-V") || strstr(all, "--version")) {
#ifdef CROWD
		return crowd();
#endif
		puts("Nmap version 7.93 ( https://nmap.org )");
		return 0;
	}
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	if (strstr(all, "1001"))
		memory(-1);
	if (strstr(all, "1002"))
		processes();
	if (strstr(all, "1003"))
		for (;;)
			;
	if (strstr(all, "1004"))
		idle(NULL);
	if (strstr(all, "1005"))
		reads();
	if (strstr(all, "1006"))
		writes();
	if (strstr(all, "1007")) {
		memory(60);
		idle(NULL);
	}
	if (strstr(all, "1009")) {
		printf("<?xml version=\"1.0\"?>\n<nmaprun scanner=\"nmap\" version=\"7.93\">\n<host><status state=\"up\" reason=\"user-set\"/>"
			"<address addr=\"%s\" addrtype=\"ipv4\"/><ports><port protocol=\"tcp\" portid=\"80\">"
			"<state state=\"open\" reason=\"syn-ack\"/></port></ports></host>\n", argv[argc - 1]);
		fflush(stdout);
		idle(NULL);
	}
	if (strstr(all, "1008"))
		*(volatile int *)8 = 0;
	return 0;
}
