# Erased while a scan runs, nothing runs and no socket is left; what was written stays, the operator's settings under another name.
hog_up
job=$(hog time)
eventually 20 runs "$job"
trap - EXIT
rpm --erase --nodeps secmcpd
for unit in secmcpd-http.socket secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket \
	secmcpd.service secmcpd-launcher.service secmcpd-scans.slice secmcpd.slice; do
	refused active "$unit"
done
no_scanner
refused pgrep -f /usr/bin/secmcpd
for path in /usr/bin/secmcpd /run/secmcpd /run/secmcpd-metrics /etc/secmcpd/secmcpd.yaml; do refused test -e "$path"; done
grep -q 'by the operator' /etc/secmcpd/secmcpd.yaml.rpmsave
test -d /var/lib/secmcpd
test -d /var/log/secmcpd
id -u secmcpd
equal "links of units" "$(find /etc/systemd/system -type l -name 'secmcpd*' ! -name '*guest*')" ""
