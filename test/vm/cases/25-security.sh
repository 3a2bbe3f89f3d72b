# The exposure that systemd computes for the loaded units: at most 1.0 for the front, 4.0 for the
# launcher. --threshold counts tenths, and its exit status is the check.
systemd-analyze --no-pager security | grep secmcpd
systemd-analyze --no-pager security --threshold=10 secmcpd.service >/dev/null
# 39 without the XDP sockets by which it attacks its own filter.
systemd-analyze --no-pager security --threshold=40 secmcpd-launcher.service >/dev/null
# A key that this systemd does not know costs the protection that it names. One may be unknown:
# before 254 the launcher moves itself.
units=(secmcpd.socket secmcpd-front.socket secmcpd.service secmcpd-launcher.service)
complaints=$(systemd-analyze verify --man=no "${units[@]}" 2>&1 | grep secmcpd | grep -v "Unknown key 'DelegateSubgroup'" || true)
equal "complaints of systemd-analyze verify" "$complaints" ""
