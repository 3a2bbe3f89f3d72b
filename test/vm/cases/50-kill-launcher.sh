# containers and one machine: a launcher that is killed takes its boxes with it within 2 s, is started again by itself, and
# the job is told as interrupted, with what it had found. The next scan works.
hog_up
job=$(finding)
# By the kernel's numbers, which are given once: the next launcher begins with a name anywhere in its range, which now
# and then is one that this one has.
links() { ip -o link | grep -o "^[0-9]*: secv[0-9]*" | sort; }
before=$(links)
kill -9 "$(launcher)"
killed=$(now)
eventually 2 no_scanner
echo "no scanner $(($(now) - killed)) ms after the launcher"
back() { active secmcpd-launcher.service && no_box; }
eventually 10 back
echo "the next one is ready, and no box left, $(($(now) - killed)) ms after it"
kept "$job" interrupted
# The next launcher keeps links of its own ready.
equal "links left" "$(comm -12 <(echo "$before") <(links))" ""
job=$(hog time)
eventually 20 runs "$job"
