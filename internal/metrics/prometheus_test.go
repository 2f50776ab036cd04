package metrics_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/programs"
)

func command(t *testing.T, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), name, args...)
}

// A process is a Prometheus that scrapes one address, with the rules.
type process struct {
	t   *testing.T
	url string
}

// watchdog runs Prometheus until standard input ends, which happens when the test binary does, however that ends.
const watchdog = `"$@" 2>&1 & pid=$!
cat >/dev/null
kill -9 $pid
wait $pid`

func startPrometheus(t *testing.T, scraped string) *process {
	t.Helper()
	program := programs.Need(t, "prometheus")
	dir := t.TempDir()
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{global: {scrape_interval: 1s, evaluation_interval: 1s}, rule_files: [%q],
		scrape_configs: [{job_name: onetoken, static_configs: [{targets: [%q]}]}]}`, rules, strings.TrimPrefix(scraped, "http://"))
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", watchdog, "sh", program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), //nolint:gosec // the test's own
		"--web.listen-address=127.0.0.1:0", "--log.format=json")
	life, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	found, ended := make(chan string, 1), make(chan struct{})
	t.Cleanup(func() {
		_ = life.Close()
		<-ended
		_ = cmd.Wait()
	})
	go func() {
		defer close(ended)
		listen(bufio.NewScanner(output), found)
	}()
	address, ok := <-found
	if !ok {
		t.Fatal("prometheus has ended before it listened")
	}
	return &process{t, "http://" + address}
}

// listen reads a log to its end, and sends the address that it names.
func listen(lines *bufio.Scanner, found chan<- string) {
	defer close(found)
	for lines.Scan() {
		var line struct{ Msg, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "Listening on" {
			found <- line.Address
		}
	}
}

// ask asks the API, and returns the data of its answer, or its error.
func (p *process) ask(path string, into any) error {
	resp, err := http.Get(p.url + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if answer.Error != "" {
		return fmt.Errorf("%s: %s", resp.Status, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// until asks again until ok, which is called after each answer.
func (p *process) until(path string, into any, ok func() bool) error {
	for limit := time.Now().Add(60 * time.Second); ; <-time.After(50 * time.Millisecond) {
		err := p.ask(path, into)
		if err == nil && ok() {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("after 60 s: %w", err)
		}
	}
}

// checkWithPrometheus has a real one scrape, evaluate the rules, and answer each query of the dashboard.
func checkWithPrometheus(t *testing.T, scraped string) {
	p := startPrometheus(t, scraped)
	for _, q := range queries(t) {
		var answer struct{ Result []json.RawMessage }
		if err := p.until("/api/v1/query?query="+url.QueryEscape(q.expr), &answer, func() bool { return len(answer.Result) > 0 }); err != nil {
			t.Errorf("%s: nothing for %s: %v", q.where, q.expr, err)
		}
	}
	var answer struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	evaluated := func() bool {
		n := 0
		for _, g := range answer.Groups {
			for _, r := range g.Rules {
				if r.Health != "unknown" {
					n++
				}
			}
		}
		return n == len(rules(t))
	}
	if err := p.until("/api/v1/rules", &answer, evaluated); err != nil {
		t.Fatalf("the rules aren't evaluated: %v: %+v", err, answer)
	}
	for _, r := range answer.Groups[0].Rules {
		if r.Health != "ok" {
			t.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
		}
	}
}
