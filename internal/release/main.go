// Command release builds the programs for each platform and packs them: one archive a platform, and SHA256SUMS. The same
// commit, version, time and Go give the same bytes, wherever they are built. make release runs it.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var r release
	flag.StringVar(&r.root, "root", ".", "the module's `folder`")
	flag.StringVar(&r.out, "out", "dist", "`folder` for the archives")
	flag.StringVar(&r.version, "version", "", "the `version` that the programs are stamped with")
	platforms := flag.String("platforms", "linux/amd64", "`list` of system/architecture, separated by blanks")
	flag.Parse()
	if err := r.run(ctx, os.Getenv("SOURCE_DATE_EPOCH"), strings.Fields(*platforms), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// A release is what all its archives share.
type release struct {
	root, out, version string
	at                 time.Time // of every file
}

// run writes the archives of all platforms, and their sums. epoch is the time of the files, in seconds since 1970.
func (r release) run(ctx context.Context, epoch string, platforms []string, log io.Writer) error {
	// It becomes a part of file names, of a linker's flag and of what the command prints.
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`).MatchString(r.version) {
		return fmt.Errorf("-version: %.120q isn't 1 to 100 of A-Z a-z 0-9 . _ + -", r.version)
	}
	// The oldest that a zip file can hold.
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if oldest := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); err != nil || seconds < oldest.Unix() {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %.40q is no number of seconds since 1970 that is after 1980", epoch)
	}
	r.at = time.Unix(seconds, 0).UTC()
	targets, err := parsePlatforms(platforms)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	names := make([]string, 0, len(targets))
	for _, p := range targets {
		name, err := r.build(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		_, _ = fmt.Fprintln(log, filepath.Join(r.out, name))
		names = append(names, name)
	}
	return r.sum(names)
}

// build builds and packs the programs for one platform, and returns the archive's name.
func (r release) build(ctx context.Context, p platform) (string, error) {
	dir, err := os.MkdirTemp("", "onetoken-release-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := compile(ctx, r.root, dir, r.version, p); err != nil {
		return "", err
	}
	files, err := r.files(dir)
	if err != nil {
		return "", err
	}
	base := fmt.Sprintf("onetoken_%s_%s_%s", r.version, p.system, p.architecture)
	pack, name := packTar, base+".tar.gz"
	if p.system == "windows" {
		pack, name = packZip, base+".zip"
	}
	return name, writeFile(filepath.Join(r.out, name), func(w io.Writer) error { return pack(w, base, r.at, files) })
}

// files returns what goes into an archive: the programs in dir, the licence and the README.
func (r release) files(dir string) ([]file, error) {
	files := []file{
		{name: "LICENSE", path: filepath.Join(r.root, "LICENSE"), mode: 0o644},
		{name: "README.md", path: filepath.Join(r.root, "README.md"), mode: 0o644},
	}
	programs, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		files = append(files, file{name: p.Name(), path: filepath.Join(dir, p.Name()), mode: 0o755})
	}
	return files, nil
}

// sum writes SHA256SUMS, as sha256sum --check reads it.
func (r release) sum(names []string) error {
	var lines strings.Builder
	slices.Sort(names)
	for _, name := range names {
		f, err := os.Open(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		_ = f.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(&lines, "%x  %s\n", h.Sum(nil), name)
	}
	return writeFile(filepath.Join(r.out, "SHA256SUMS"), func(w io.Writer) error {
		_, err := io.WriteString(w, lines.String())
		return err
	})
}

// writeFile creates the file at path with what write writes.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
