// hog stands in for nmap, and takes what it can get. Which resource, the port says that it is
// asked to scan: 1001 memory, 1002 processes, 1003 processor time, 1004 time; any other ends
// at once. Built as hog-crowd, it takes threads when it is asked for its version: that box alone
// lets a scanner have any. It is linked statically and needs nothing but a few system calls.
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

static void memory(void) {
	for (;;) {
		char *p = malloc(1 << 20);
		if (p)
			memset(p, 1, 1 << 20);
	}
}

// crowd makes threads until it is refused one.
static int crowd(void) {
	pthread_t thread;
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	for (int made = 1; made < 1000; made++)
		if (pthread_create(&thread, &small, idle, NULL)) {
			printf("refused after %d\n", made);
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
		memory();
	if (strstr(all, "1002"))
		processes();
	if (strstr(all, "1003"))
		for (;;)
			;
	if (strstr(all, "1004"))
		idle(NULL);
	return 0;
}
