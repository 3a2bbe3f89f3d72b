# What each room sees of the machine: units say it, this is what came of it. Not even root could write through it.
systemctl start secmcpd.service secmcpd-launcher.service
front=$(property secmcpd.service MainPID)
sees() { find "/proc/$1/root$2" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' '; }
writes() { touch "/proc/$1/root$2/new" && rm "/proc/$1/root$2/new"; } 2>/dev/null
equal "the front's /run" "$(sees "$front" /run)" "secmcpd secmcpd-metrics systemd "
equal "the front's /run/systemd" "$(sees "$front" /run/systemd | sed 's/^incoming //')" "journal notify " # systemd's own, and empty
equal "the front's /var/lib" "$(sees "$front" /var/lib)" "secmcpd "
for path in /var/lib/secmcpd /run/secmcpd-metrics /tmp; do
	writes "$front" "$path" || fail "the front cannot write to $path"
done
for path in / /etc /run /run/secmcpd /run/systemd/journal /var /var/lib /usr/bin /sys/fs/cgroup; do
	refused writes "$front" "$path"
done
refused nsenter --target="$front" --mount /usr/bin/true 2>/dev/null # it may execute itself alone
equal "the front's links" "$(nsenter --target="$front" --net ip -o link | cut -d: -f2)" " lo"
for path in /var/lib/secmcpd-launcher /var/log/secmcpd /tmp "$(cgroup)"; do
	mkdir "/proc/$(launcher)/root$path/new" || fail "the launcher cannot write to $path"
	rmdir "/proc/$(launcher)/root$path/new"
done
for path in / /etc /run/secmcpd /var/lib /usr/bin "$(dirname "$(cgroup)")" /proc/sys/kernel; do
	refused writes "$(launcher)" "$path"
done
