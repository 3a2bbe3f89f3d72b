# container only: a launcher that is wedged is killed by systemd and started again; its scan ends with it, and is told as
# interrupted, with what it had found.
accept_lacks
mkdir -p /run/systemd/system/secmcpd-launcher.service.d
printf '[Service]\nWatchdogSec=4s\nTimeoutAbortSec=1s\n' >/run/systemd/system/secmcpd-launcher.service.d/watchdog.conf
systemctl daemon-reload
hog_up # starts it anew
trap 'rm -rf /run/systemd/system/secmcpd-launcher.service.d; systemctl daemon-reload; settings_gone hog' EXIT
job=$(finding)
pid=$(launcher)
hold secmcpd-launcher.service 5 # it is fed
kill -STOP "$pid"
begun_ms=$(now)
another() { [ "$(launcher)" != "$pid" ] && active secmcpd-launcher.service; }
eventually 20 another
echo "another launcher after $(($(now) - begun_ms)) ms"
contains "the journal" "$(journalctl --no-pager --since "$begun" -u secmcpd-launcher.service)" "Watchdog timeout"
no_scanner || fail "a scanner lives on"
kept "$job" interrupted
