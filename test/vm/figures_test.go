//go:build systest

package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFigures measures what an installation costs, in a container: `make figures`. Its scripts print lines of BENCH;
// docs/benchmarks.md says what they mean. They judge nothing but that it works.
func TestFigures(t *testing.T) {
	k := kind{name: "container", perCase: 4 * time.Minute, all: 10 * time.Minute, cases: "figures", disk: containerDisk, start: startContainer}
	for _, s := range suites {
		im := prepare(t, s.suite, s.systemd)
		k.packages = func(t *testing.T, dir string) {
			packages(t, dir)
			if err := fetchNmap(t.Context(), im, dir); err != nil {
				t.Fatal(err)
			}
		}
		t.Run("systemd-"+s.systemd, func(t *testing.T) { runCases(t, k, im) })
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(*debFile), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		kind := strings.TrimPrefix(filepath.Ext(file), ".")
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "deb" || kind == "rpm" {
			fmt.Printf("BENCH package_%s %.2f MB %s\n", kind, float64(info.Size())/1e6, filepath.Base(file))
		}
	}
}

// fetchNmap puts nmap and what it needs beside the package into /test/debs, as the suite has them: a guest has no network.
// It is done in the image, with the network and the apt of this machine.
func fetchNmap(ctx context.Context, im image, test string) error {
	_, options, err := mirror(ctx)
	if err != nil {
		return err
	}
	var conf strings.Builder
	for _, o := range options {
		fmt.Fprintln(&conf, strings.TrimPrefix(o, "--aptopt="))
	}
	if err := os.WriteFile(filepath.Join(test, "apt.conf"), []byte(conf.String()), 0o644); err != nil {
		return err
	}
	const script = `mkdir -p /test/debs/partial && apt-get -q update && apt-get -q purge -y --autoremove nmap && ` +
		`apt-get -q install -y --no-install-recommends --download-only -o Dir::Cache::archives=/test/debs/ nmap && rm -rf /test/debs/partial /test/debs/lock`
	return command(ctx, "systemd-nspawn", "--quiet", "--directory="+filepath.Join(im.dir, "root"), "--volatile=overlay", fmt.Sprintf("--machine=fetch-%d", os.Getpid()),
		"--register=no", "--keep-unit", "--pipe", "--resolv-conf=bind-host", "--bind="+test+":/test", "--setenv=APT_CONFIG=/test/apt.conf",
		"--setenv=DEBIAN_FRONTEND=noninteractive", "sh", "-c", script)
}
