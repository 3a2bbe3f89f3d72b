# one machine only: needs the cpu controller
# A scanner that takes all processor time gets its share, and no more.
hog_up "limits: {cpu_percent: 20}"
job=$(hog cpu)
eventually 20 runs "$job"
box=$(box "$job")
used() { awk '$1 == "usage_usec" {print int($2 / 1000)}' "$box/cpu.stat"; }
before=$(used)
begun_ms=$(now)
sleep 5
taken=$(($(used) - before))
share=$((100 * taken / ($(now) - begun_ms)))
echo "$taken ms, $share percent"
[ "$share" -ge 10 ] || fail "it did not even take its share: $share percent"
[ "$share" -le 25 ] || fail "it took $share percent of a processor, of 20"
