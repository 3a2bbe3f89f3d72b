# one machine only: needs the io controller
# A scanner that keeps the disk busy, reading or writing, gets its share, and no more.
hog_up "limits: {io_mib: 1}"
declare -A told_as=([reads]=read_bytes [writes]=written_bytes)
for way in reads writes; do
	job=$(hog "$way")
	eventually 20 runs "$job"
	box=$(box "$job")
	field=${way:0:1}bytes
	# KiB, of all disks
	moved() { tr ' ' '\n' <"$box/io.stat" | awk -F= -v field="$field" '$1 == field {sum += $2} END {print int(sum / 1024)}'; }
	begun() { [ "$(moved)" -gt 0 ]; }
	eventually 10 begun
	before=$(moved)
	begun_ms=$(now)
	sleep 6
	rate=$((1000 * ($(moved) - before) / ($(now) - begun_ms)))
	echo "$way $rate KiB a second"
	[ "$rate" -ge 512 ] || fail "$way: it did not even take its share: $rate KiB a second"
	[ "$rate" -le 1280 ] || fail "$way: $rate KiB a second, of 1024"
	call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null
	result=$(call alice job_result "{\"job_id\": \"$job\", \"wait_s\": 20}")
	echo "$result"
	told=$(value "usage.${told_as[$way]}" "$result") waited=$(value usage.waited_io_ms "$result")
	[ "$told" -ge $((before << 10)) ] || fail "the result tells $told bytes, more than $before KiB were moved"
	[ "$waited" -ge 3000 ] || fail "the result tells $waited ms of waiting for the disk, of 6 s and more"
	eventually 20 no_box
done
