// Captures writes what the scanners of a Debian print of the lab, for the tests of runners/report. It needs root.
//
//	mmdebstrap --variant=minbase --include=nmap,masscan,gobuster trixie /tmp/trixie
//	mount -t proc proc /tmp/trixie/proc
//	go run ./test/captures -root /tmp/trixie -out runners/report/testdata/debian13
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

var (
	root = flag.String("root", "/", "the Debian whose scanners run")
	out  = flag.String("out", "", "the directory that the captures go to")
	only = flag.String("only", "", "of which the names begin so")
)

func main() {
	os.Exit(lab.Enter(func() int {
		flag.Parse()
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, "captures:", err)
			return 1
		}
		return 0
	}))
}

const (
	nmap  = "nmap --datadir /usr/share/nmap -n -v -oX - --stats-every 1s -T4 --max-rate 1000 --max-hostgroup 4 "
	words = "nothing\nadmin\naway\nshop\nstaff\nobey\nwww\nslow\nstatic\napi\n"
)

// captures are those that are made. What ends by itself has no limit.
var captures = []struct {
	name, argv string
	limit      time.Duration
}{
	{"nmap-connect", nmap + "--unprivileged --host-timeout 60s -sT -p 22,80,81 10.77.0.8/29", 0},
	{"nmap-syn", nmap + "--privileged --host-timeout 60s -sS -Pn -p 20-25,80 " + lab.SSHAndWeb + " " + lab.Web, 0},
	{"nmap-ipv6", nmap + "--privileged --host-timeout 60s -6 -sS -p 22,80,81 " + lab.IPv6Host + " " + lab.Sites6, 0},
	{"nmap-udp", nmap + "--privileged --host-timeout 60s -sU -Pn -p 53,161,162 " + lab.SNMP + " " + lab.Talker + " --script snmp-sysdescr,dns-nsid", 0},
	{"nmap-discovery", nmap + "--privileged --host-timeout 60s -sn 10.77.0.8/28", 0},
	{"nmap-discovery6", nmap + "--privileged --host-timeout 60s -6 -sn " + lab.IPv6Host + " fd77::1:1", 0},
	{"nmap-os", nmap + "--privileged --host-timeout 60s -sS -O -p 22,80,81 " + lab.SSHAndWeb, 0},
	{"nmap-talker", nmap + "--unprivileged --host-timeout 60s -sT -Pn -p 21,22,25,80,443 -sV --version-intensity 0 --script banner,http-title,http-server-header,http-robots.txt,http-auth,http-methods,smtp-commands " + lab.Talker, 0},
	{"nmap-talker6", nmap + "--unprivileged --host-timeout 60s -6 -sT -Pn -p 21,22,80 --script banner,http-title " + lab.Talker6, 0},
	{"nmap-timeout", nmap + "--unprivileged --host-timeout 3s -sT -Pn -p 1-400 " + lab.SSHAndWeb + " 10.77.1.0/30", 0},
	{"nmap-scripts-late", nmap + "--unprivileged --host-timeout 60s --script-timeout 1s -sT -Pn -p 21,80 --script banner,http-title " + lab.Talker + " " + lab.Mute, 0},
	{"nmap-badscript", nmap + "--unprivileged -sT -p 22 --script nothing-of-the-kind " + lab.SSHAndWeb, 0},
	{"nmap-killed", nmap + "--unprivileged --host-timeout 60s -sT -Pn -p 1-100 10.77.0.8/29 10.77.1.0/28", 6 * time.Second},
	{"nmap-unprivileged", nmap + "--unprivileged -sS -p 22 " + lab.SSHAndWeb, 0},

	{"masscan-network", "masscan --rate 500 --retries 0 --wait 2 --noreset -p 22,80,8080,U:53 10.77.0.8/29 " + lab.DNS, 0},
	{"masscan-talker", "masscan --rate 500 --retries 0 --wait 2 --noreset -p 13,21-25,79,80,443 " + lab.Talker, 0},
	{"masscan-nothing", "masscan --rate 500 --retries 0 --wait 1 --noreset -p 80 10.77.1.0/29", 0},
	{"masscan-ipv6", "masscan --rate 500 --retries 0 --wait 2 --noreset --adapter-ip " + lab.Uplink6 + " --router-mac-ipv6 ROUTER -p 22,80,81 --range " + lab.IPv6Host + "," + lab.Talker6, 0},
	{"masscan-killed", "masscan --rate 20 --retries 0 --wait 2 --noreset -p 1-100 10.77.0.10/31", 4 * time.Second},
	{"masscan-noroute", "masscan --rate 500 --wait 1 --adapter nothing0 -p 80 " + lab.Web, 0},

	{"gobuster-dir", "gobuster dir --no-color -u http://" + lab.Sites + " -w /tmp/words", 0},
	{"gobuster-dir6", "gobuster dir --no-color -u http://[" + lab.Sites6 + "] -w /tmp/words", 0},
	{"gobuster-talker", "gobuster dir --no-color -u http://" + lab.Talker + " -w /tmp/words", 0},
	{"gobuster-vhost", "gobuster vhost --no-color --append-domain --domain lab.internal -u http://" + lab.Sites + " -w /tmp/words", 0},
	{"gobuster-talkingvhost", "gobuster vhost --no-color --append-domain --domain lab.internal -u http://" + lab.Talker + " -w /tmp/words", 0},
	{"gobuster-dns", "gobuster dns --no-color -d lab.internal -r " + lab.DNS + " -i --timeout 2s -w /tmp/words", 0},
	{"gobuster-wildcard", "gobuster dir --no-color -H Host:staff.lab.internal -u http://" + lab.Sites + " -w /tmp/words", 0},
	{"gobuster-badanswer", "gobuster dir --no-color -u http://" + lab.Web + " -w /tmp/words", 0}, // with a header that not every version reads
	{"gobuster-tls", "gobuster dir --no-color -u https://" + lab.Talker + " -w /tmp/words", 0},
	{"gobuster-refused", "gobuster dir --no-color -u http://" + lab.SSH + ":81 -w /tmp/words", 0},
	{"gobuster-killed", "gobuster dir --no-color -t 1 --delay 500ms -u http://" + lab.Sites + " -w /tmp/words", 3 * time.Second},
}

func run() error {
	network, err := lab.New()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(*root, "tmp/words"), []byte(words), 0o644); err != nil {
		return err
	}
	router, err := routerMAC()
	if err != nil {
		return err
	}
	for _, c := range captures {
		if !strings.HasPrefix(c.name, *only) {
			continue
		}
		argv := strings.Fields(strings.ReplaceAll(c.argv, "ROUTER", router))
		version, err := versionOf(argv[0])
		if err != nil {
			return err
		}
		if err := capture(strings.Replace(c.name, "-", "-"+version+"-", 1), argv, c.limit); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return network.Close()
}

// capture keeps what a scanner prints until it ends or is killed. masscan waits for packets, which nobody sends on a
// link of its own: so somebody does.
func capture(name string, argv []string, limit time.Duration) error {
	ctx, done := context.WithTimeout(context.Background(), 2*time.Minute)
	defer done()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, "/usr/bin/"+argv[0], argv[1:]...)
	c.Dir, c.Env, c.Stdout, c.Stderr = "/", []string{}, &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: *root}
	if err := c.Start(); err != nil {
		return err
	}
	if limit > 0 {
		time.AfterFunc(limit, func() { _ = c.Process.Kill() })
	}
	go func() {
		for ; ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
			if u, err := net.Dial("udp", lab.SNMP+":9"); err == nil {
				_, _ = u.Write([]byte("tick"))
				u.Close()
			}
		}
	}()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	fmt.Printf("%s: %v, %d and %d bytes\n", name, c.ProcessState, stdout.Len(), stderr.Len())
	path := filepath.Join(*out, name)
	return errors.Join(os.WriteFile(path+".out", stdout.Bytes(), 0o644), os.WriteFile(path+".err", stderr.Bytes(), 0o644))
}

// versionOf is the version of a scanner's package, as its authors count.
func versionOf(scanner string) (string, error) {
	text, err := exec.Command("dpkg-query", "--root="+*root, "-W", "-f", "${source:Upstream-Version}", scanner).Output()
	version, _, _ := strings.Cut(string(text), "+")
	return version, err
}

// routerMAC is the hardware address of the next hop, which masscan does not find over IPv6.
func routerMAC() (string, error) {
	if c, err := net.DialTimeout("tcp", "["+lab.IPv6Host+"]:22", 5*time.Second); err == nil {
		c.Close()
	}
	text, err := exec.Command("ip", "-6", "neigh", "show", "fd30::2").Output()
	words := strings.Fields(string(text))
	for i := range words {
		if words[i] == "lladdr" {
			return words[i+1], nil
		}
	}
	return "", fmt.Errorf("no neighbour is known: %s, %w", text, err)
}
