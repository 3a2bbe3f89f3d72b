# one machine only: needs Landlock and every controller
# On this kernel and with every controller: each probe under each profile, the filters asked number
# by number, and doctor's proof, with nothing missing.
cd /test || exit 1
trap 'rm -f /var/tmp/probe /run/systemd/system/proof.service; systemctl daemon-reload' EXIT
install -m 755 bin/probe /var/tmp/probe # /test cannot be written to by anybody
SECMCPD_PROBE=/var/tmp/probe sandbox.test -test.short -test.v -test.run '^(TestProbes|TestFilterAnswers|TestProve)$'
# As systemd-run would do it, which needs a bus that is not here.
printf '%s\n' '[Service]' Type=oneshot Delegate=yes 'ExecStart=/usr/bin/secmcpd doctor' StandardOutput=file:/tmp/doctor >/run/systemd/system/proof.service
systemctl daemon-reload
systemctl start proof.service || true # of warnings
cat /tmp/doctor
for layer in cgroup cgroup-memory cgroup-pids cgroup-cpu namespaces root uid capabilities no-new-privs landlock seccomp rlimits; do
	grep -qE "^ok +box $layer +proved: " /tmp/doctor || fail "$layer is not proved"
done
refused grep FAILED /tmp/doctor
