# The exposure that systemd computes for the loaded units: at most 1.0 for the front.
# --threshold counts tenths, and its exit status is the check.
systemd-analyze --no-pager security | grep secmcpd
systemd-analyze --no-pager security --threshold=10 secmcpd.service >/dev/null
systemd-analyze --no-pager security --threshold=39 secmcpd-launcher.service >/dev/null
# A key that this systemd does not know costs its protection; only these two may be unknown.
equal "keys unknown to systemd" "$(journalctl --no-pager -b -o cat -g 'Unknown key name .* in section' | grep secmcpd | grep -v DelegateSubgroup || true)" ""
