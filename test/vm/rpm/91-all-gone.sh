# With what docs/install.md says in place of a purge, nothing is left: no file, user, group, link, rule, cgroup, setting.
rm -rf /etc/secmcpd /var/lib/secmcpd /var/lib/secmcpd-launcher /var/log/secmcpd
userdel secmcpd; groupdel secmcpd-agents; groupdel secmcpd-admin
equal "what is left" "$(find / /run -xdev -name '*secmcpd*' ! -path '/test/*' ! -name '*secmcpd-guest*' | sort -u)" ""
equal "what is left of the catalogue" "$(journalctl --list-catalog | grep -c secmcpd || true)" 0
equal "users and groups" "$(grep -hs secmcpd /etc/passwd /etc/group /etc/shadow /etc/gshadow || true)" ""
equal "units" "$(systemctl list-units --all --plain --no-legend 'secmcpd*' | grep -v secmcpd-guest || true)" ""
# Controllers of cgroup v1 a container shares with whoever else is on the machine.
equal "cgroups" "$(find "$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)" -name '*secmcpd*' ! -name '*secmcpd-guest*')" ""
machine | diff /run/machine-before - || fail "the machine is not as before the installation"
