# Purged during a scan, nothing is left: no file, user, group, link, rule, cgroup, and no setting of the kernel is other than before.
touch /etc/secmcpd/engagements.d/of-the-operator.yaml
hog_up
job=$(hog time)
eventually 20 runs "$job"
trap - EXIT
dpkg --purge secmcpd
no_scanner || fail "a scanner lives on"
for path in /etc/secmcpd /var/lib/secmcpd /var/lib/secmcpd-launcher /var/log/secmcpd /run/secmcpd /run/secmcpd-metrics /var/lib/prometheus /usr/bin/secmcpd \
	/etc/systemd/system/sockets.target.wants/secmcpd.socket; do
	refused test -e "$path"
done
# Whatever else bears the name: state of the scripts, links of units, catalogue, the link for node_exporter.
equal "what is left" "$(find / /run -xdev -name '*secmcpd*' ! -path '/test/*' ! -name '*secmcpd-guest*' | sort -u)" ""
equal "what is left of the catalogue" "$(journalctl --list-catalog | grep -c secmcpd || true)" 0
equal "users and groups" "$(grep -hs secmcpd /etc/passwd /etc/group /etc/shadow /etc/gshadow || true)" ""
id -u alice # who was in the group is still there, and in it no more
equal "failed units" "$(systemctl list-units --failed --plain --no-legend 'secmcpd*')" ""
equal "units" "$(systemctl list-units --all --plain --no-legend 'secmcpd*' | grep -v secmcpd-guest || true)" ""
refused pgrep -f /usr/bin/secmcpd
# Containers have a unified hierarchy of their own each, and share the older ones.
equal "cgroups" "$(find "$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)" -name '*secmcpd*' ! -name '*secmcpd-guest*')" ""
machine | diff /var/tmp/machine-before - || fail "the machine is not as before the installation"
