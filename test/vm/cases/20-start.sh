# The first connection, of an agent in the group, starts both services and is answered; they say that they are ready, and stay.
agent alice
for unit in secmcpd.service secmcpd-launcher.service; do refused active "$unit"; done
call alice capabilities '{}' >/dev/null
for unit in secmcpd.service secmcpd-launcher.service; do eventually 40 active "$unit"; done # the launcher says so when it has attacked its filter
hold secmcpd.service 3
hold secmcpd-launcher.service 1
equal "user of the front" "$(ps -o user= -p "$(property secmcpd.service MainPID)")" secmcpd
equal "user of the launcher" "$(ps -o user= -p "$(launcher)")" root
equal "capabilities of the front" "$(awk '/^Cap(Prm|Eff|Bnd|Amb)/ {print $2}' "/proc/$(property secmcpd.service MainPID)/status" | sort -u)" 0000000000000000
# kill, setgid, setuid, setpcap, net_admin, net_raw, sys_admin
equal "capabilities that the launcher can have" "$(awk '/^CapBnd/ {print $2}' "/proc/$(launcher)/status")" 00000000002031e0
equal "state of the front" "$(stat -c '%a %U' /var/lib/secmcpd)" "750 secmcpd"
equal "state of the launcher" "$(stat -c '%a %U' /var/lib/secmcpd-launcher)" "700 root"
equal "audit log" "$(stat -c '%a %U' /var/log/secmcpd)" "750 root"
equal "cgroup of the launcher" "$(sed -n 's/^0:://p' "/proc/$(launcher)/cgroup")" "$(property secmcpd-launcher.service ControlGroup)/supervisor"
if ! systemd-detect-virt --quiet --container; then
	contains "journal" "$(journalctl -b -u secmcpd-launcher)" "the kernel's scope filter was attacked and let nothing through"
	# It is ready by the looks that the watchdog hangs on, too, before any scan.
	sleep 5
	case $(property secmcpd-launcher.service StatusText) in "not ready"*) fail "$(property secmcpd-launcher.service StatusText)" ;; esac
fi
