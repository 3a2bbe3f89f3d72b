/* The filter on a slot's link. It sits on the host's side of the veth: scope_out judges what
 * leaves the box (clsact ingress), scope_in what goes into it (clsact egress). In the mode l2,
 * scope_out sends what passes out of the interface of the segment itself, and scope_wire, at the
 * ingress of that one, hands over what comes for a slot's address.
 *
 * A packet is judged by one record of its slot, copied under a lock. The record names a job, and
 * every other map has the job in its key: no packet is judged by parts of two jobs. A number of
 * a job is never used twice. */

#include "scope.h"

/* What happened, as indices of counters. filter.go has the same list. */
enum {
	SENT,
	OFF_SCOPE, /* a destination that the scope does not have */
	SPOOFED,   /* a source that is not the slot's */
	FORM,      /* options, fragments, extension headers, lengths that do not add up */
	ETHERTYPE, /* neither IP nor ARP, or a VLAN tag */
	PROTOCOL,  /* a protocol or a kind of ICMP that is not granted */
	PORT,
	BUDGET,
	NOISE, /* what a kernel says by itself when a link comes up */
	NOT_READY,
	RECEIVED,
	REFUSED,
	SENT_BYTES,
	RECEIVED_BYTES,
	REASONS,
};

#define RUNNING 1   /* without it nothing passes, in either direction */
#define HAS_IPV6 2
#define HAS_ARP 4   /* may ask for the gateway's address */
#define HAS_L2 8    /* is on the targets' own segment: may ask for theirs, and leaves by wire */
#define HAS_DENY 16 /* there are prefixes to deny */
#define HAS_FRAGMENTS 32

struct rate {
	__u64 interval;  /* ns between packets; 0: no limit */
	__u64 tolerance; /* ns that packets may come early */
};

struct grant {
	__u32 job; /* 0: none */
	__u32 flags;
	__u32 mark; /* of what passes */
	__u32 inner4, outer4;
	__u16 inner_mac[3], outer_mac[3];
	__u32 inner6[4];
	__u32 wire, zero; /* the interface by which HAS_L2 leaves */
	__u64 shared[2];      /* keys of the budgets that slots have in common */
	struct rate rates[3]; /* the slot's own, then those of shared */
};

struct slot {
	struct bpf_spin_lock lock;
	__u32 named; /* destinations in violations */
	__u64 next;  /* ns: when the slot's own budget is whole again */
	struct grant grant;
};

struct {
	number(type, BPF_MAP_TYPE_HASH);
	number(max_entries, 1024);
	kind(key, __u32); /* of the interface */
	kind(value, struct slot);
} slots SEC(".maps");

/* A place in the scope: a prefix of a job's allowed or denied addresses. IPv4 is written as it is
 * mapped into IPv6 (::ffff:0:0/96), and never mistaken for it: the set tells. */
struct place {
	__u32 bits;
	__u32 set; /* job << 2, 2 for IPv6, 1 for denied */
	__u32 addr[4];
};

#define MAY_ICMP 1
#define MAY_OTHER 2 /* any protocol */

struct target {
	__u32 ports; /* a set of the job's; 0: all of TCP, UDP and SCTP */
	__u32 may;
};

struct {
	number(type, BPF_MAP_TYPE_LPM_TRIE);
	number(map_flags, BPF_F_NO_PREALLOC);
	number(max_entries, 1 << 20);
	kind(key, struct place);
	kind(value, struct target);
} scope SEC(".maps");

struct port_set {
	__u32 job, set, protocol;
};

struct ports {
	__u8 bits[8192]; /* port p is bit p % 8 of byte p / 8 */
};

struct {
	number(type, BPF_MAP_TYPE_HASH);
	number(map_flags, BPF_F_NO_PREALLOC);
	number(max_entries, 4096);
	kind(key, struct port_set);
	kind(value, struct ports);
} ports SEC(".maps");

struct budget {
	struct bpf_spin_lock lock;
	__u32 zero;
	__u64 next;
};

struct {
	number(type, BPF_MAP_TYPE_HASH);
	number(max_entries, 2048);
	kind(key, __u64);
	kind(value, struct budget);
} budgets SEC(".maps");

struct counters {
	__u64 of[REASONS];
};

struct {
	number(type, BPF_MAP_TYPE_PERCPU_HASH);
	number(max_entries, 4096);
	kind(key, __u32); /* job; 0 counts what no job had to do with */
	kind(value, struct counters);
} counters SEC(".maps");

/* The first destinations of a job that were not in its scope. A full list stays as it is: a
 * flood cannot push out what came before it. */
#define NAMED 64

struct violation {
	__u32 job;
	__u32 to[4];
	__u16 port;
	__u8 protocol;
	__u8 reason;
};

struct {
	number(type, BPF_MAP_TYPE_HASH);
	number(map_flags, BPF_F_NO_PREALLOC);
	number(max_entries, 1024 * NAMED);
	kind(key, struct violation);
	kind(value, __u64);
} violations SEC(".maps");

/* What is known of a packet so far. */
struct packet {
	struct place to;
	__u32 offset; /* of the transport header in the frame */
	__u32 length; /* from there on, as the IP header says */
	__u32 count;  /* packets on the wire: a large one is segmented later */
	__u8 protocol;
	__u8 fragment; /* 1: the first one, 2: another one */
	__u8 named;    /* to and protocol are known */
	__u8 asks;     /* a question for all on the segment */
	__u8 arp;      /* by ARP: its protocol has no number and is named as 0 */
	__u16 port;
};

static inline void count(__u32 job, __u32 reason, __u64 n)
{
	struct counters *c = bpf_map_lookup_elem(&counters, &job);
	if (c)
		__sync_fetch_and_add(&c->of[reason], n);
}

static inline int same_mac(const __u16 *a, const __u16 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

static inline int same6(const __u32 *a, const __u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static inline void map4(struct place *p, __u32 addr)
{
	p->addr[0] = p->addr[1] = 0;
	p->addr[2] = net32(0xffff);
	p->addr[3] = addr;
}

/* in_scope finds the rule for an address; NULL: none. A denied prefix wins, however short. */
static inline struct target *in_scope(const struct grant *g, struct place *p, int ipv6)
{
	p->bits = 32 + 128;
	if (g->flags & HAS_DENY) {
		p->set = g->job << 2 | (ipv6 ? 2 : 0) | 1;
		if (bpf_map_lookup_elem(&scope, p))
			return NULL;
	}
	p->set = g->job << 2 | (ipv6 ? 2 : 0);
	return bpf_map_lookup_elem(&scope, p);
}

/* spend takes n packets from a budget that is locked: the generic cell rate algorithm. */
static inline int spend(__u64 *next, const struct rate *r, __u64 now, __u32 n)
{
	__u64 at = *next > now ? *next : now;
	if (at - now + (n - 1) * r->interval > r->tolerance)
		return 0;
	*next = at + n * r->interval;
	return 1;
}

static inline int spend_shared(const struct grant *g, int i, __u64 now, __u32 n)
{
	struct budget *b;
	int ok;
	if (!g->rates[i + 1].interval)
		return 1;
	b = bpf_map_lookup_elem(&budgets, &g->shared[i]);
	if (!b)
		return 0;
	bpf_spin_lock(&b->lock);
	ok = spend(&b->next, &g->rates[i + 1], now, n);
	bpf_spin_unlock(&b->lock);
	return ok;
}

/* afford asks the narrowest budget first: what it refuses costs the others nothing. */
static inline int afford(struct slot *s, const struct grant *g, __u32 n)
{
	__u64 now = bpf_ktime_get_ns();
	int ok = 1;
	if (g->rates[0].interval) {
		bpf_spin_lock(&s->lock);
		ok = spend(&s->next, &g->rates[0], now, n);
		bpf_spin_unlock(&s->lock);
	}
	return ok && spend_shared(g, 0, now, n) && spend_shared(g, 1, now, n);
}

static inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* arp_out passes questions for the gateway, asked under the slot's own addresses, and on a segment
 * those for targets. */
static inline int arp_out(struct __sk_buff *skb, const struct grant *g, const struct ethernet *e, struct packet *p)
{
	struct arp a;
	__u32 sender, target;
	if (!(g->flags & HAS_ARP))
		return ETHERTYPE;
	if (bpf_skb_load_bytes(skb, sizeof(*e), &a, sizeof(a)))
		return FORM;
	if (a.hardware != net16(1) || a.protocol != net16(ETH_P_IP) || a.hardware_size != 6 || a.protocol_size != 4)
		return FORM;
	if (a.operation != net16(1))
		return PROTOCOL; /* an answer, or worse */
	sender = a.sender[0] | (__u32)a.sender[1] << 16;
	target = a.target[0] | (__u32)a.target[1] << 16;
	if (!same_mac(a.sender_mac, g->inner_mac) || sender != g->inner4)
		return SPOOFED;
	if (target == g->outer4)
		return SENT;
	map4(&p->to, target);
	p->named = 1;
	if (!(g->flags & HAS_L2))
		return OFF_SCOPE;
	if (skb->len > 60)
		return FORM; /* all on the segment would get what is behind the question */
	p->asks = 1;
	p->arp = 1;
	return in_scope(g, &p->to, 0) ? SENT : OFF_SCOPE;
}

/* nd_out passes questions for targets, asked under the slot's own addresses; -1: it is no question
 * of a host's that has an address. */
static inline int nd_out(struct __sk_buff *skb, const struct grant *g, const struct ethernet *e, struct packet *p)
{
	struct solicitation s;
	if (bpf_skb_load_bytes(skb, sizeof(*e), &s, sizeof(s)))
		return -1;
	if (s.ip.version_class >> 4 != 6 || s.ip.next != IPPROTO_ICMPV6 || s.type != 135 || !same6(s.ip.from, g->inner6))
		return -1;
	if (skb->len != sizeof(*e) + sizeof(s) || s.ip.length != net16(sizeof(s) - sizeof(s.ip)) || s.ip.hops != 255 ||
	    s.code || s.reserved || s.option != 1 || s.octets != 1)
		return FORM;
	if (!same_mac(s.mac, g->inner_mac))
		return SPOOFED;
	p->protocol = s.ip.next;
	p->to.addr[0] = s.target[0];
	p->to.addr[1] = s.target[1];
	p->to.addr[2] = s.target[2];
	p->to.addr[3] = s.target[3];
	p->named = 1;
	if (e->to[0] & 1) {
		/* The group of those whose addresses end as the target's. */
		__u32 end = net32(s.target[3]) & 0xffffff;
		if (e->to[0] != 0x3333 || e->to[1] != net16(0xff00 | end >> 16) || e->to[2] != net16(end) ||
		    s.ip.to[0] != net32(0xff020000) || s.ip.to[1] || s.ip.to[2] != net32(1) || s.ip.to[3] != net32(0xff000000 | end))
			return OFF_SCOPE;
		p->asks = 1;
	} else if (!same6(s.ip.to, s.target)) {
		return OFF_SCOPE;
	}
	return in_scope(g, &p->to, 1) ? SENT : OFF_SCOPE;
}

/* ipv4_out reads an IPv4 header up to the addresses. */
static inline int ipv4_out(struct __sk_buff *skb, const struct grant *g, struct packet *p)
{
	struct ipv4 h;
	__u16 fragment;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethernet), &h, sizeof(h)))
		return FORM;
	if (h.version_words != 0x45) /* options, and with them source routes */
		return FORM;
	p->length = net16(h.length);
	if (p->length < sizeof(h) || p->length > skb->len - sizeof(struct ethernet))
		return FORM;
	fragment = net16(h.fragment) & 0x3fff;
	if (fragment) {
		if (!(g->flags & HAS_FRAGMENTS))
			return FORM;
		p->fragment = fragment & 0x1fff ? 2 : 1;
	}
	if (h.from != g->inner4)
		return SPOOFED;
	p->offset = sizeof(struct ethernet) + sizeof(h);
	p->length -= sizeof(h);
	p->protocol = h.protocol;
	map4(&p->to, h.to);
	p->named = 1;
	if (h.to == 0 || (h.to & 0xff) >= 224) /* multicast, reserved, broadcast */
		return OFF_SCOPE;
	return SENT;
}

/* extension says what no IPv6 header may be followed by, whatever is granted. */
static inline int extension(__u8 next)
{
	switch (next) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_ESP:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case IPPROTO_HIP:
	case IPPROTO_SHIM6:
	case IPPROTO_TEST1:
	case IPPROTO_TEST2:
		return 1;
	}
	return 0;
}

static inline int ipv6_out(struct __sk_buff *skb, const struct grant *g, struct packet *p)
{
	struct ipv6 h;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethernet), &h, sizeof(h)))
		return FORM;
	if (h.version_class >> 4 != 6)
		return FORM;
	p->length = net16(h.length);
	if (!p->length || p->length + sizeof(h) > skb->len - sizeof(struct ethernet))
		return FORM;
	if (extension(h.next))
		return FORM;
	if (!same6(h.from, g->inner6))
		return SPOOFED;
	p->offset = sizeof(struct ethernet) + sizeof(h);
	p->protocol = h.next;
	p->to.addr[0] = h.to[0];
	p->to.addr[1] = h.to[1];
	p->to.addr[2] = h.to[2];
	p->to.addr[3] = h.to[3];
	p->named = 1;
	if ((h.to[0] & 0xff) == 0xff) /* multicast */
		return OFF_SCOPE;
	return SENT;
}

/* icmp_out passes what a scan asks, and the errors by which a kernel says that nobody listens.
 * Redirects and advertisements never. */
static inline int icmp_out(struct __sk_buff *skb, struct packet *p, const struct target *t, int ipv6)
{
	__u8 h[8];
	if (!(t->may & MAY_ICMP))
		return PROTOCOL;
	if (p->fragment == 2)
		return SENT;
	if (p->length < sizeof(h) || bpf_skb_load_bytes(skb, p->offset, h, sizeof(h)))
		return FORM;
	if (ipv6)
		return h[0] == 1 || h[0] == 128 ? SENT : PROTOCOL;
	return h[0] == 3 || h[0] == 8 || h[0] == 13 || h[0] == 17 ? SENT : PROTOCOL;
}

/* segments says what a large packet is on the wire. Its sender chooses gso_size. */
static inline __u32 segments(struct __sk_buff *skb, __u32 payload)
{
	__u32 size = skb->gso_size;
	return size && payload > size ? (payload + size - 1) / size : 1;
}

/* transport_out judges what follows the IP header. */
static inline int transport_out(struct __sk_buff *skb, const struct grant *g, struct packet *p, const struct target *t, int ipv6)
{
	struct port_set key = {.job = g->job, .set = t->ports, .protocol = p->protocol};
	struct {
		__u16 from, to;
		__u32 rest;
	} h;
	__u32 size = 8;
	__u8 words;
	if (p->fragment && t->ports)
		return FORM; /* a port must be seen to be judged */
	if (p->protocol == (ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return icmp_out(skb, p, t, ipv6);
	if (!has_ports(p->protocol))
		/* The other family's ICMP is nobody's protocol. */
		return t->may & MAY_OTHER && p->protocol != (ipv6 ? IPPROTO_ICMP : IPPROTO_ICMPV6) ? SENT : PROTOCOL;
	if (p->fragment == 2)
		return SENT;
	if (p->length < size || bpf_skb_load_bytes(skb, p->offset, &h, sizeof(h)))
		return FORM;
	if (p->fragment)
		return SENT; /* all ports are granted: they need not be complete */
	if (p->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->offset + 12, &words, sizeof(words)))
			return FORM;
		size = (words >> 4) * 4;
		if (size < 20)
			return FORM;
	} else if (p->protocol == IPPROTO_SCTP) {
		size = 12;
	}
	if (p->length < size || p->offset + size > skb->len)
		return FORM;
	p->count = segments(skb, p->length - size);
	if (t->ports) {
		__u16 port = net16(h.to);
		struct ports *set = bpf_map_lookup_elem(&ports, &key);
		if (!set)
			return PROTOCOL;
		if (!(set->bits[port >> 3] >> (port & 7) & 1))
			return PORT;
	}
	return SENT;
}

/* noise tells what a slot's own kernel sends to groups on its link: neighbour discovery and
 * reports of multicast listeners, as ICMPv6 or behind a header of options. None of it passes:
 * neighbours are fixed on both ends, so nobody needs an answer. */
static inline int noise(struct __sk_buff *skb)
{
	struct ipv6 h;
	__u8 option[2];
	__u32 offset = sizeof(struct ethernet) + sizeof(h);
	__u8 type;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethernet), &h, sizeof(h)))
		return 0;
	if (h.version_class >> 4 != 6 || (h.to[0] & 0xffff) != 0x02ff)
		return 0;
	if (h.next == IPPROTO_HOPOPTS) {
		if (bpf_skb_load_bytes(skb, offset, option, sizeof(option)) || option[0] != IPPROTO_ICMPV6 || option[1])
			return 0;
		offset += 8;
	} else if (h.next != IPPROTO_ICMPV6) {
		return 0;
	}
	if (bpf_skb_load_bytes(skb, offset, &type, sizeof(type)))
		return 0;
	return (type >= 130 && type <= 136) || type == 143;
}

static inline int judge_out(struct __sk_buff *skb, const struct grant *g, struct packet *p)
{
	struct ethernet e;
	struct target *t;
	int reason, ipv6;
	if (!(g->flags & RUNNING) || !g->job)
		return NOT_READY;
	if (bpf_skb_load_bytes(skb, 0, &e, sizeof(e)))
		return FORM;
	if (skb->vlan_present)
		return ETHERTYPE; /* the kernel has taken the tag off the frame */
	ipv6 = e.kind == net16(ETH_P_IPV6);
	if (ipv6 && g->flags & HAS_L2 && g->flags & HAS_IPV6 && same_mac(e.from, g->inner_mac)) {
		reason = nd_out(skb, g, &e, p);
		if (reason >= 0)
			return reason;
	}
	/* Also where the slot has no IPv6: its kernel has, and speaks late. */
	if (ipv6 && e.to[0] == 0x3333 && same_mac(e.from, g->inner_mac) && noise(skb))
		return NOISE;
	if (e.kind != net16(ETH_P_IP) && e.kind != net16(ETH_P_ARP) && !(ipv6 && g->flags & HAS_IPV6))
		return ETHERTYPE;
	if (!same_mac(e.from, g->inner_mac))
		return SPOOFED;
	if (e.kind == net16(ETH_P_ARP) && (e.to[0] & e.to[1] & e.to[2]) == 0xffff)
		return arp_out(skb, g, &e, p);
	if (g->flags & HAS_L2 ? e.to[0] & 1 : !same_mac(e.to, g->outer_mac))
		return OFF_SCOPE;
	if (e.kind == net16(ETH_P_ARP))
		return arp_out(skb, g, &e, p);
	reason = ipv6 ? ipv6_out(skb, g, p) : ipv4_out(skb, g, p);
	if (reason != SENT)
		return reason;
	t = in_scope(g, &p->to, ipv6);
	if (!t)
		return OFF_SCOPE;
	return transport_out(skb, g, p, t, ipv6);
}

/* name keeps where a packet was bound that the scope did not let out. */
static inline void name(struct __sk_buff *skb, struct slot *s, const struct grant *g, const struct packet *p, int reason)
{
	struct violation v = {.job = g->job, .protocol = p->protocol, .reason = reason};
	__u64 one = 1, *seen;
	__u16 port;
	int room = 0;
	v.to[0] = p->to.addr[0];
	v.to[1] = p->to.addr[1];
	v.to[2] = p->to.addr[2];
	v.to[3] = p->to.addr[3];
	if (has_ports(p->protocol) && p->fragment != 2 && p->length >= 4 && !bpf_skb_load_bytes(skb, p->offset + 2, &port, sizeof(port)))
		v.port = net16(port);
	seen = bpf_map_lookup_elem(&violations, &v);
	if (!seen) {
		bpf_spin_lock(&s->lock);
		if (s->grant.job == g->job && s->named < NAMED) {
			s->named++;
			room = 1;
		}
		bpf_spin_unlock(&s->lock);
		if (!room || !bpf_map_update_elem(&violations, &v, &one, BPF_NOEXIST))
			return;
		seen = bpf_map_lookup_elem(&violations, &v); /* another CPU has just named it */
		if (!seen)
			return;
	}
	__sync_fetch_and_add(seen, 1);
}

/* find copies the grant of the link's slot. A link that is unknown has none. */
static inline struct slot *find(struct __sk_buff *skb, struct grant *g)
{
	__u32 link = skb->ifindex;
	struct slot *s = bpf_map_lookup_elem(&slots, &link);
	if (!s)
		return NULL;
	bpf_spin_lock(&s->lock);
	*g = s->grant;
	bpf_spin_unlock(&s->lock);
	return s;
}

/* answer turns a question for this side of the link into its answer. The kernel would give none: what
 * asks has an address of this machine's. */
static inline int answer(struct __sk_buff *skb, const struct grant *g)
{
	struct {
		struct ethernet e;
		struct arp a;
	} f;
	if (bpf_skb_load_bytes(skb, 0, &f, sizeof(f)))
		return TC_ACT_SHOT;
	__builtin_memcpy(f.e.to, g->inner_mac, 6);
	__builtin_memcpy(f.e.from, g->outer_mac, 6);
	__builtin_memcpy(f.a.target_mac, g->inner_mac, 6);
	__builtin_memcpy(f.a.sender_mac, g->outer_mac, 6);
	__builtin_memcpy(f.a.target, &g->inner4, 4);
	__builtin_memcpy(f.a.sender, &g->outer4, 4);
	f.a.operation = net16(2);
	if (bpf_skb_store_bytes(skb, 0, &f, sizeof(f), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* leave sends a packet out of the segment's interface, past this machine's own routes and rules. Its
 * kernel says which station has the address that was judged: a sender cannot choose another one. */
static inline int leave(struct __sk_buff *skb, const struct grant *g, const struct packet *p)
{
	struct next_hop to = {.family = AF_INET6};
	__u16 everyone[3] = {0xffff, 0xffff, 0xffff};
	if (p->named && !p->asks) {
		if (skb->protocol == net16(ETH_P_IP)) {
			to.family = AF_INET;
			to.addr[0] = p->to.addr[3];
		} else {
			to.addr[0] = p->to.addr[0];
			to.addr[1] = p->to.addr[1];
			to.addr[2] = p->to.addr[2];
			to.addr[3] = p->to.addr[3];
		}
		return bpf_redirect_neigh(g->wire, &to, sizeof(to), 0);
	}
	if (!p->asks)
		return answer(skb, g);
	/* A kernel asks a station that it knows already. */
	if (p->arp && bpf_skb_store_bytes(skb, 0, everyone, sizeof(everyone), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(g->wire, 0);
}

SEC("tc") int scope_out(struct __sk_buff *skb)
{
	struct packet p = {.count = 1};
	struct grant g;
	int reason;
	struct slot *s = find(skb, &g);
	if (!s) {
		count(0, NOT_READY, 1);
		return TC_ACT_SHOT;
	}
	reason = judge_out(skb, &g, &p);
	if (reason == SENT && !afford(s, &g, p.count))
		reason = BUDGET;
	count(g.job, reason, p.count);
	if (reason != SENT) {
		if (p.named && (reason == OFF_SCOPE || reason == PROTOCOL || reason == PORT))
			name(skb, s, &g, &p, reason);
		return TC_ACT_SHOT;
	}
	count(g.job, SENT_BYTES, skb->len);
	if (g.flags & HAS_L2)
		return leave(skb, &g, &p);
	skb->mark = g.mark;
	return TC_ACT_OK;
}

/* quoted says whether an ICMP error is about what the slot sent to its scope. */
static inline int quoted4(struct __sk_buff *skb, const struct grant *g, __u32 offset)
{
	struct place p = {};
	struct ipv4 h;
	__u8 type;
	if (bpf_skb_load_bytes(skb, offset, &type, sizeof(type)) || (type != 3 && type != 11 && type != 12))
		return 0;
	if (bpf_skb_load_bytes(skb, offset + 8, &h, sizeof(h)) || h.version_words != 0x45 || h.from != g->inner4)
		return 0;
	map4(&p, h.to);
	return in_scope(g, &p, 0) != NULL;
}

static inline int quoted6(struct __sk_buff *skb, const struct grant *g, __u32 offset)
{
	struct place p = {};
	struct ipv6 h;
	__u8 type;
	if (bpf_skb_load_bytes(skb, offset, &type, sizeof(type)) || type < 1 || type > 4)
		return 0;
	if (bpf_skb_load_bytes(skb, offset + 8, &h, sizeof(h)) || h.version_class >> 4 != 6 || !same6(h.from, g->inner6))
		return 0;
	p.addr[0] = h.to[0];
	p.addr[1] = h.to[1];
	p.addr[2] = h.to[2];
	p.addr[3] = h.to[3];
	return in_scope(g, &p, 1) != NULL;
}

static inline int arp_in(struct __sk_buff *skb, const struct grant *g)
{
	struct place p = {};
	struct arp a;
	__u32 sender, target;
	if (!(g->flags & HAS_ARP) || bpf_skb_load_bytes(skb, sizeof(struct ethernet), &a, sizeof(a)))
		return REFUSED;
	if (a.hardware != net16(1) || a.protocol != net16(ETH_P_IP) || a.hardware_size != 6 || a.protocol_size != 4)
		return REFUSED;
	sender = a.sender[0] | (__u32)a.sender[1] << 16;
	target = a.target[0] | (__u32)a.target[1] << 16;
	if (target != g->inner4)
		return REFUSED;
	if (sender == g->outer4)
		return same_mac(a.sender_mac, g->outer_mac) ? RECEIVED : REFUSED;
	if (!(g->flags & HAS_L2) || a.operation != net16(2))
		return REFUSED;
	map4(&p, sender);
	return in_scope(g, &p, 0) ? RECEIVED : REFUSED;
}

static inline int ipv4_in(struct __sk_buff *skb, const struct grant *g)
{
	struct place p = {};
	struct ipv4 h;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethernet), &h, sizeof(h)) || h.version_words >> 4 != 4)
		return REFUSED;
	if (h.to != g->inner4)
		return REFUSED;
	map4(&p, h.from);
	if (in_scope(g, &p, 0))
		return RECEIVED;
	/* From routers on the way: whole, and about a packet of the slot's. */
	if (h.protocol == IPPROTO_ICMP && h.version_words == 0x45 && !(net16(h.fragment) & 0x3fff) &&
	    quoted4(skb, g, sizeof(struct ethernet) + sizeof(h)))
		return RECEIVED;
	return REFUSED;
}

/* nd_in says of what goes into a slot on its targets' segment whether it is an answer about one of
 * them; -1: it is not of neighbour discovery. */
static inline int nd_in(struct __sk_buff *skb, const struct grant *g, const struct ipv6 *h)
{
	struct place p = {};
	__u8 type;
	__u32 offset = sizeof(struct ethernet) + sizeof(*h);
	if (h->next != IPPROTO_ICMPV6)
		return -1;
	if (bpf_skb_load_bytes(skb, offset, &type, sizeof(type)))
		return REFUSED;
	if (type < 133 || type > 137)
		return -1;
	if (type != 136 || h->hops != 255 || bpf_skb_load_bytes(skb, offset + 8, p.addr, sizeof(p.addr)))
		return REFUSED;
	return in_scope(g, &p, 1) ? RECEIVED : REFUSED;
}

static inline int ipv6_in(struct __sk_buff *skb, const struct grant *g)
{
	struct place p = {};
	struct ipv6 h;
	if (!(g->flags & HAS_IPV6))
		return REFUSED;
	if (bpf_skb_load_bytes(skb, sizeof(struct ethernet), &h, sizeof(h)) || h.version_class >> 4 != 6)
		return REFUSED;
	if (!same6(h.to, g->inner6))
		return REFUSED;
	if (g->flags & HAS_L2) {
		int reason = nd_in(skb, g, &h);
		if (reason >= 0)
			return reason;
	}
	p.addr[0] = h.from[0];
	p.addr[1] = h.from[1];
	p.addr[2] = h.from[2];
	p.addr[3] = h.from[3];
	if (in_scope(g, &p, 1))
		return RECEIVED;
	if (h.next == IPPROTO_ICMPV6 && quoted6(skb, g, sizeof(struct ethernet) + sizeof(h)))
		return RECEIVED;
	return REFUSED;
}

static inline int judge_in(struct __sk_buff *skb, const struct grant *g)
{
	struct ethernet e;
	if (!(g->flags & RUNNING) || !g->job)
		return NOT_READY;
	if (bpf_skb_load_bytes(skb, 0, &e, sizeof(e)) || skb->vlan_present)
		return REFUSED;
	if (e.kind == net16(ETH_P_ARP))
		return arp_in(skb, g);
	if (e.kind == net16(ETH_P_IP))
		return ipv4_in(skb, g);
	if (e.kind != net16(ETH_P_IPV6))
		return REFUSED;
	if (e.to[0] == 0x3333 && noise(skb))
		return NOISE;
	return ipv6_in(skb, g);
}

SEC("tc") int scope_in(struct __sk_buff *skb)
{
	struct grant g;
	int reason;
	if (!find(skb, &g)) {
		count(0, NOT_READY, 1);
		return TC_ACT_SHOT;
	}
	reason = judge_in(skb, &g);
	if (reason != RECEIVED) {
		count(g.job, reason, 1);
		return TC_ACT_SHOT;
	}
	count(g.job, RECEIVED, skb->gso_segs ? skb->gso_segs : 1);
	count(g.job, RECEIVED_BYTES, skb->len);
	return TC_ACT_OK;
}

/* The addresses of the segment that are slots' alone. */
struct range {
	__u32 net4, mask4;
	__u32 net6[4], mask6[4]; /* no mask: none */
};

struct {
	number(type, BPF_MAP_TYPE_ARRAY);
	number(max_entries, 1);
	kind(key, __u32);
	kind(value, struct range);
} range SEC(".maps");

struct address {
	__u32 of[4]; /* IPv4 as in place */
};

/* Who has which of them now. */
struct {
	number(type, BPF_MAP_TYPE_HASH);
	number(max_entries, 1024);
	kind(key, struct address);
	kind(value, __u32); /* the interface of the slot's link */
} owners SEC(".maps");

static inline int of_slots4(__u32 addr)
{
	__u32 zero = 0;
	struct range *r = bpf_map_lookup_elem(&range, &zero);
	return r && r->mask4 && (addr & r->mask4) == r->net4;
}

static inline int of_slots6(const __u32 *a)
{
	__u32 zero = 0;
	struct range *r = bpf_map_lookup_elem(&range, &zero);
	return r && r->mask6[0] && (a[0] & r->mask6[0]) == r->net6[0] && (a[1] & r->mask6[1]) == r->net6[1] &&
	       (a[2] & r->mask6[2]) == r->net6[2] && (a[3] & r->mask6[3]) == r->net6[3];
}

/* hand gives a slot what is for its address; both: this machine's kernel, which asks under that
 * address, too, and answers who asks for it, gets it as well. What is for an address that no slot
 * has is for nobody. */
static inline int hand(struct __sk_buff *skb, const struct address *a, int slot, int machine)
{
	__u32 *link = bpf_map_lookup_elem(&owners, a);
	if (!link)
		return TC_ACT_SHOT;
	if (!machine)
		return skb->pkt_type == PACKET_HOST ? bpf_redirect(*link, 0) : TC_ACT_SHOT;
	if (slot)
		bpf_clone_redirect(skb, *link, 0);
	return TC_ACT_UNSPEC;
}

/* scope_wire has no business with what is not for a slot's address: that goes on to whatever else
 * is attached there. */
SEC("tc") int scope_wire(struct __sk_buff *skb)
{
	struct address a = {.of = {0, 0, net32(0xffff), 0}};
	struct ethernet e;
	struct arp q;
	struct ipv4 h;
	struct ipv6 h6;
	__u8 type = 0;
	if (skb->vlan_present || skb->pkt_type == PACKET_OTHERHOST || bpf_skb_load_bytes(skb, 0, &e, sizeof(e)))
		return TC_ACT_UNSPEC;
	if (e.kind == net16(ETH_P_ARP)) {
		if (bpf_skb_load_bytes(skb, sizeof(e), &q, sizeof(q)))
			return TC_ACT_UNSPEC;
		a.of[3] = q.target[0] | (__u32)q.target[1] << 16;
		return of_slots4(a.of[3]) ? hand(skb, &a, q.operation == net16(2), 1) : TC_ACT_UNSPEC;
	}
	if (e.kind == net16(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, sizeof(e), &h, sizeof(h)))
			return TC_ACT_UNSPEC;
		a.of[3] = h.to;
		return of_slots4(h.to) ? hand(skb, &a, 1, 0) : TC_ACT_UNSPEC;
	}
	if (e.kind != net16(ETH_P_IPV6) || bpf_skb_load_bytes(skb, sizeof(e), &h6, sizeof(h6)) || !of_slots6(h6.to))
		return TC_ACT_UNSPEC;
	a.of[0] = h6.to[0];
	a.of[1] = h6.to[1];
	a.of[2] = h6.to[2];
	a.of[3] = h6.to[3];
	if (h6.next == IPPROTO_ICMPV6)
		bpf_skb_load_bytes(skb, sizeof(e) + sizeof(h6), &type, sizeof(type));
	return hand(skb, &a, type != 135, type == 135 || type == 136);
}

/* No helper here asks for the GPL; the kernel wants to read something. */
char terms[] SEC("license") = "Proprietary";
