# container only: a front that is wedged is restarted by systemd; the scan runs on, and its result arrives. The status says how each room is.
agent alice
accept_lacks
lab_up 22 80

status_of() { systemctl status --no-pager "$1" | sed -n 's/^ *Status: "\(.*\)"$/\1/p'; }
says() { case $(status_of "$1") in *"$2"*) ;; *) return 1 ;; esac; }

# The package has the watchdog on: 30 s and 60 s.
equal "the front's watchdog" "$(property secmcpd.service WatchdogUSec)" 30s
equal "the launcher's watchdog" "$(property secmcpd-launcher.service WatchdogUSec)" 1min

mkdir -p /run/systemd/system/secmcpd.service.d
trap 'rm -rf /run/systemd/system/secmcpd.service.d; systemctl daemon-reload; lab_down' EXIT
printf '[Service]\nWatchdogSec=4s\nTimeoutAbortSec=2s\n' >/run/systemd/system/secmcpd.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart secmcpd.service

# 400 ports at 20 packets a second: 20 seconds, and more on a slow machine.
job=$(value job_id "$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [\"1-400\"], \"rate\": 20, \"skip_discovery\": true, \"wait_s\": 0}")")
eventually 30 runs "$job"
eventually 10 says secmcpd-launcher.service "1 scan running, 0 queued"
eventually 10 says secmcpd.service "1 job running, 0 queued"
scanner=$(scanners)
front=$(property secmcpd.service MainPID)
room=$(launcher)
restarts=$(property secmcpd.service NRestarts)
hold secmcpd.service 5 # it is fed

kill -STOP "$front"
begun_ms=$(now)
another() { [ "$(property secmcpd.service MainPID)" != "$front" ] && active secmcpd.service; }
eventually 40 another
echo "another front after $(($(now) - begun_ms)) ms"
equal "restarts" "$(property secmcpd.service NRestarts)" $((restarts + 1))
contains "the journal" "$(journalctl --no-pager --since "$begun" -u secmcpd.service)" "Watchdog timeout"
equal "the scanner" "$(scanners)" "$scanner"

done_=$(ended "$job")
equal "status of the job" "$(value status "$done_")" completed
equal "its open ports" "$(value summary.open_ports "$done_")" 2
equal "the launcher" "$(launcher)" "$room"

rm -r /run/systemd/system/secmcpd.service.d
systemctl daemon-reload
systemctl restart secmcpd.service
