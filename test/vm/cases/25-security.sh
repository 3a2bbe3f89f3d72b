# The exposure that systemd computes for the loaded units: at most 0.6 for the front, 4.0 for the
# launcher. --threshold counts tenths, and its exit status is the check.
systemd-analyze --no-pager security | grep secmcpd
systemd-analyze --no-pager security --threshold=6 secmcpd.service >/dev/null
# 39 without the XDP sockets by which it attacks its own filter.
systemd-analyze --no-pager security --threshold=40 secmcpd-launcher.service >/dev/null
# A key that this systemd does not know costs the protection that it names. One may be unknown:
# before 254 the launcher moves itself.
mapfile -t units < <(dpkg -L secmcpd | grep '^/usr/lib/systemd/system/')
equal "how many units there are" "${#units[@]}" 10
verified() { systemd-analyze verify --man=no "$@" 2>&1 | grep secmcpd | grep -v "Unknown key 'DelegateSubgroup'" || true; }
equal "complaints of systemd-analyze verify" "$(verified "${units[@]##*/}")" ""
# Those that an operator copies, too.
trap 'rm -f /etc/systemd/system/secmcpd-scan*' EXIT
cp /usr/share/doc/secmcpd/examples/secmcpd-scan* /etc/systemd/system/
equal "complaints about the examples" "$(verified secmcpd-scan@weekly.timer secmcpd-scan@weekly.service secmcpd-scan-changed@weekly.service)" ""
