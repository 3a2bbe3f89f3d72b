/* The few words of the kernel's and the network's that the filter needs. Everything in a struct
 * that crosses to Go has its natural place: no compiler puts padding anywhere. */

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

/* struct __sk_buff of linux/bpf.h. The kernel knows the fields by their offsets. */
struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol;
	__u32 vlan_present, vlan_tci, vlan_proto;
	__u32 priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end;
	__u32 napi_id, family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	__u32 data_meta;
	__u64 flow_keys, tstamp;
	__u32 wire_len, gso_segs;
	__u64 sk;
	__u32 gso_size, tstamp_type;
	__u64 hwtstamp;
};

struct bpf_spin_lock {
	__u32 val;
};

/* What a neighbour is asked for by; the kernel knows it as struct bpf_redir_neigh. */
struct next_hop {
	__u32 family;
	__u32 addr[4]; /* of IPv4, the first */
};

#define AF_INET 2
#define AF_INET6 10

#define TC_ACT_UNSPEC -1
#define TC_ACT_OK 0
#define TC_ACT_SHOT 2

#define PACKET_HOST 0
#define PACKET_OTHERHOST 3

#define BPF_MAP_TYPE_ARRAY 2

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_PERCPU_HASH 5
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_F_NO_PREALLOC 1
#define BPF_NOEXIST 1

/* The helpers, by their numbers in enum bpf_func_id. All of them are older than Linux 5.10. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static long (*bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len, __u64 flags) = (void *)9;
static long (*bpf_clone_redirect)(struct __sk_buff *skb, __u32 ifindex, __u64 flags) = (void *)13;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static long (*bpf_spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static long (*bpf_spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static long (*bpf_redirect_neigh)(__u32 ifindex, struct next_hop *to, int size, __u64 flags) = (void *)152;

#define SEC(name) __attribute__((section(name), used))
#define inline inline __attribute__((always_inline))
#define NULL ((void *)0)

/* The members of a map's definition are read from their types. */
#define number(name, value) int(*name)[value]
#define kind(name, type) type *name

static inline __u16 net16(__u16 v) { return __builtin_bswap16(v); }
static inline __u32 net32(__u32 v) { return __builtin_bswap32(v); }

#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd

#define IPPROTO_HOPOPTS 0
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ESP 50
#define IPPROTO_AH 51
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60
#define IPPROTO_SCTP 132
#define IPPROTO_MH 135
#define IPPROTO_HIP 139
#define IPPROTO_SHIM6 140
#define IPPROTO_TEST1 253
#define IPPROTO_TEST2 254

struct ethernet {
	__u16 to[3], from[3], kind;
};

struct arp {
	__u16 hardware, protocol;
	__u8 hardware_size, protocol_size;
	__u16 operation;
	__u16 sender_mac[3], sender[2], target_mac[3], target[2];
};

struct ipv4 {
	__u8 version_words, service;
	__u16 length, id, fragment;
	__u8 ttl, protocol;
	__u16 sum;
	__u32 from, to;
};

struct ipv6 {
	__u8 version_class, flow[3];
	__u16 length;
	__u8 next, hops;
	__u32 from[4], to[4];
};

/* A neighbour solicitation as a host sends it that has an address. */
struct solicitation {
	struct ipv6 ip;
	__u8 type, code;
	__u16 sum;
	__u32 reserved, target[4];
	__u8 option, octets;
	__u16 mac[3];
};
