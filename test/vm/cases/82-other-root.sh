# container only: what dpkg does in another root with the scripts of this system is no matter of this machine.
other=/var/tmp/other
trap 'rm -rf "$other"' EXIT
mkdir -p "$other/etc" "$other/var/lib/secmcpd"
grep secmcpd /etc/passwd >"$other/etc/passwd"
grep secmcpd /etc/group >"$other/etc/group"
for what in remove purge; do DPKG_ROOT=$other sh /var/lib/dpkg/info/secmcpd.postrm "$what"; done
refused test -e "$other/var/lib/secmcpd"
equal "users and groups of the other root" "$(cat "$other/etc/passwd" "$other/etc/group")" ""
id -u secmcpd
for group in secmcpd-agents secmcpd-admin; do getent group "$group"; done
test -e /etc/secmcpd/secmcpd.yaml
test -e /run/secmcpd-metrics/secmcpd.prom
test -d /var/lib/secmcpd
active secmcpd.socket
