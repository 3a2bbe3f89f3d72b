package sandbox

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A packet socket can have memory of the kernel that no cgroup is charged for: a ring, as large as is
// asked for, and lists. A capture library has no other way to read, so a box with raw sockets keeps the
// call, and a program at the door of its cgroup looks at what is asked: no ring above ringMost bytes, no
// more of them than the box has memory for, no list.
const (
	ringMost  = 8 << 20 // bytes; scanners ask for 2 to 4 MiB
	ringsMost = 8       // of one box, at once
	// bufferMost is asked for, the kernel gives twice as much: that is what a socket has unasked.
	bufferMost = 212992 / 2 // bytes
)

// rings is the program, and what it counts for each box, by the number of its cgroup.
type rings struct {
	program *ebpf.Program
	made    *ebpf.Map // rings asked for since the box was made
	allowed *ebpf.Map // how many of these it may have had
}

func newRings() (_ *rings, err error) {
	r := &rings{}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	spec := ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 4096}
	if r.made, err = ebpf.NewMap(&spec); err != nil {
		return nil, fmt.Errorf("cannot count rings: %w", err)
	}
	if r.allowed, err = ebpf.NewMap(&spec); err != nil {
		return nil, fmt.Errorf("cannot count rings: %w", err)
	}
	r.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "secmcpd_rings", Type: ebpf.CGroupSockopt,
		AttachType: ebpf.AttachCGroupSetsockopt, License: "GPL", Instructions: r.instructions()})
	if err != nil {
		return nil, fmt.Errorf("cannot load the program that bounds rings: %w", err)
	}
	return r, nil
}

func (r *rings) close() {
	if r == nil {
		return
	}
	r.program.Close() // nil is closed already, for all three
	r.made.Close()
	r.allowed.Close()
}

// Where the kernel puts what a program asks it for, and what packet(7) lays out.
const (
	sockoptValue, sockoptEnd                = 8, 16 // struct bpf_sockopt
	sockoptLevel, sockoptName, sockoptBytes = 24, 28, 32
	blockSize, blockCount                   = 0, 4 // struct tpacket_req
	membershipType, membershipBytes         = 4, 6 // struct packet_mreq
	requestLeast, requestMost               = 16, 28
)

// instructions of the program. Its answer is 1 to go on and 0 for EPERM. What it has looked at the kernel
// takes from the program, not from the scanner once more.
func (r *rings) instructions() asm.Instructions {
	const id = -8 // on the stack
	// request lets R2 be the value and goes away where it is none that the kernel understands.
	request := func(name string, least int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R3, asm.R6, sockoptBytes, asm.Word).WithSymbol(name),
			asm.JGT.Imm(asm.R3, requestMost, "refuse"),
			asm.LoadMem(asm.R2, asm.R6, sockoptValue, asm.DWord),
			asm.LoadMem(asm.R3, asm.R6, sockoptEnd, asm.DWord),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, least),
			asm.JGT.Reg(asm.R4, asm.R3, "refuse"),
		}
	}
	return join(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R6, sockoptLevel, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, sockoptName, asm.Word),
		asm.JEq.Imm(asm.R1, unix.SOL_SOCKET, "socket"),
		asm.JNE.Imm(asm.R1, unix.SOL_PACKET, "pass"),
		asm.JEq.Imm(asm.R2, unix.PACKET_RX_RING, "ring"),
		asm.JEq.Imm(asm.R2, unix.PACKET_ADD_MEMBERSHIP, "membership"),
		asm.Ja.Label("pass"),
		asm.JEq.Imm(asm.R2, unix.SO_RCVBUF, "buffer").WithSymbol("socket"),
		asm.JEq.Imm(asm.R2, unix.SO_SNDBUF, "buffer"),
		// 0 bytes looked at: the kernel takes the scanner's own value, however long it is.
		// By way of a register: before Linux 6.3 a constant is not stored there.
		asm.Mov.Imm(asm.R0, 0).WithSymbol("pass"),
		asm.StoreMem(asm.R6, sockoptBytes, asm.R0, asm.Word),
		asm.Mov.Imm(asm.R0, 1),
		asm.Return(),
	},
		request("buffer", 4), asm.Instructions{
			asm.LoadMem(asm.R3, asm.R2, 0, asm.Word),
			asm.JLE.Imm(asm.R3, bufferMost, "accept"), // a negative one is large here
			asm.StoreImm(asm.R2, 0, bufferMost, asm.Word),
			asm.Ja.Label("accept"),
		},
		// One entry for each interface, for the promiscuity that scanners ask for.
		request("membership", requestLeast), asm.Instructions{
			asm.LoadMem(asm.R3, asm.R2, membershipType, asm.Half),
			asm.JNE.Imm(asm.R3, unix.PACKET_MR_PROMISC, "refuse"),
			asm.LoadMem(asm.R3, asm.R2, membershipBytes, asm.Half),
			asm.JNE.Imm(asm.R3, 0, "refuse"),
			asm.Ja.Label("accept"),
		},
		request("ring", requestLeast), asm.Instructions{
			asm.LoadMem(asm.R3, asm.R2, blockSize, asm.Word),
			asm.LoadMem(asm.R4, asm.R2, blockCount, asm.Word),
			asm.Mul.Reg(asm.R3, asm.R4),
			asm.JEq.Imm(asm.R3, 0, "accept"), // gives one back
			asm.JGT.Imm(asm.R3, ringMost, "refuse"),
			asm.FnGetCurrentCgroupId.Call(),
			asm.StoreMem(asm.R10, id, asm.R0, asm.DWord),
			asm.LoadMapPtr(asm.R1, r.allowed.FD()),
			asm.Mov.Reg(asm.R2, asm.R10),
			asm.Add.Imm(asm.R2, id),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "refuse"),
			asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord),
			asm.LoadMapPtr(asm.R1, r.made.FD()),
			asm.Mov.Reg(asm.R2, asm.R10),
			asm.Add.Imm(asm.R2, id),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "refuse"),
			asm.Mov.Imm(asm.R1, 1),
			asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), // with what other threads have added meanwhile: too many, not too few
			asm.JGT.Reg(asm.R1, asm.R7, "refuse"),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("accept"),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("refuse"),
			asm.Return(),
		})
}

// held is one box under the program.
type held struct {
	rings   *rings
	id      uint64 // of its cgroup
	most    uint64
	sockets *os.File // the packet sockets of its network; nil: not asked for yet, or not to be had
	asked   sync.Once
}

// hold puts a cgroup under the program, before it has a process. It ends with the cgroup.
func (r *rings) hold(l *leaf, memory int64) (*held, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(l.fd.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("cannot tell the number of cgroup: %w", err)
	}
	h := &held{rings: r, id: stat.Ino, most: uint64(min(ringsMost, max(1, memory/ringMost)))}
	if err := errors.Join(r.made.Put(h.id, uint64(0)), r.allowed.Put(h.id, h.most)); err != nil {
		return nil, fmt.Errorf("cannot allow rings: %w", errors.Join(err, h.release()))
	}
	// Beside what others may have put there.
	err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(l.fd.Fd()), Program: r.program,
		Attach: ebpf.AttachCGroupSetsockopt, Flags: unix.BPF_F_ALLOW_MULTI})
	if err != nil {
		return nil, fmt.Errorf("cannot bound rings: %w", errors.Join(err, h.release()))
	}
	return h, nil
}

// renew allows a box as many rings as it has let go of: a scanner opens one after the other. Every
// packet socket that still lives, also by a mapping alone, counts for one. Nobody is told when one
// ends, so this is asked again and again; in between only the number of those that are made is known.
func (h *held) renew(network *os.File) {
	if h == nil || network == nil {
		return
	}
	h.asked.Do(func() { h.sockets, _ = packetSocketsOf(network) })
	var made uint64
	if h.sockets == nil || h.rings.made.Lookup(h.id, &made) != nil {
		return
	}
	live, err := countLines(h.sockets) // after made: one that is in both is one too many, not one too few
	if err != nil {
		return
	}
	_ = h.rings.allowed.Put(h.id, made+h.most-min(h.most, live)) // it keeps what it has otherwise
}

// release forgets a box that has ended.
func (h *held) release() error {
	if h == nil {
		return nil
	}
	if h.sockets != nil {
		h.sockets.Close()
	}
	var failed []error
	for _, m := range []*ebpf.Map{h.rings.made, h.rings.allowed} {
		if err := m.Delete(h.id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// packetSocketsOf opens the list of a network's packet sockets, whoever has them.
func packetSocketsOf(network *os.File) (list *os.File, err error) {
	done := make(chan struct{})
	onOwnThread(func() {
		defer close(done)
		if err = unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err == nil {
			list, err = os.Open("/proc/thread-self/net/packet")
		}
	})
	<-done
	return list, err
}

// countLines counts those of a page, without the heading: more than a box may have.
func countLines(list *os.File) (n uint64, err error) {
	var page [4096]byte
	size, err := unix.Pread(int(list.Fd()), page[:], 0)
	if err != nil {
		return 0, err
	}
	for _, b := range page[:size] {
		if b == '\n' {
			n++
		}
	}
	return max(n, 1) - 1, nil
}
