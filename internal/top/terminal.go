package top

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"golang.org/x/term"
)

// A Terminal is where a view is shown.
type Terminal struct {
	Out       io.Writer // default stdout
	Environ   []string  // default the process's: TERM, NO_COLOR, the locale
	Namespace string    // is shown
}

// Show shows what r reads until somebody leaves the view or ctx is done; neither is an error. Meanwhile it has the whole
// terminal, and gives it back as it was: after a panic, too, which then goes on.
func (t Terminal) Show(ctx context.Context, r *Reader) error {
	program := tea.NewProgram(view{model: t.model(), reader: r}, t.options()...)
	defer context.AfterFunc(ctx, program.Quit)()
	stop := show(ctx, program, r)
	last, err := program.Run()
	stop()
	if v, ok := last.(view); ok && v.panicked != "" {
		panic(string(v.panicked))
	}
	return err
}

// show has a program shown what r reads until stop is called.
func show(ctx context.Context, program *tea.Program, r *Reader) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				program.Send(panicked(fmt.Sprintf("%v\n\n%s", v, debug.Stack())))
			}
		}()
		r.Run(ctx, func(s Snapshot) { program.Send(s) })
	})
	return func() { cancel(); reading.Wait() }
}

func (t Terminal) model() Model {
	return Model{Namespace: t.Namespace, ASCII: !unicodeLocale(t.Environ)}.At(time.Now())
}

func (t Terminal) options() []tea.ProgramOption {
	options := []tea.ProgramOption{tea.WithoutSignalHandler(), tea.WithEnvironment(t.Environ), tea.WithFPS(30)}
	if !hasKeys() {
		options = append(options, tea.WithInput(nil))
	}
	if t.Out != nil {
		options = append(options, tea.WithOutput(t.Out))
	}
	if lookup(t.Environ, "NO_COLOR") != "" {
		options = append(options, tea.WithColorProfile(colorprofile.ASCII))
	}
	return options
}

// hasKeys reports whether there is a terminal to read keys from: stdin, or else the process's. A view can do without.
func hasKeys() bool {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return true
	}
	in, out, err := tea.OpenTTY()
	if err != nil {
		return false
	}
	_ = in.Close()
	_ = out.Close()
	return true
}

// unicodeLocale is false where the locale says that the terminal has another encoding than UTF-8.
func unicodeLocale(environ []string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToUpper(lookup(environ, name)); value != "" {
			return strings.Contains(value, "UTF-8") || strings.Contains(value, "UTF8")
		}
	}
	return true
}

// lookup returns the last value of a variable, as a process sees it.
func lookup(environ []string, name string) (value string) {
	for _, entry := range environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// A view is the model in a terminal.
type view struct {
	model   Model
	reader  *Reader // nil for a strip
	strip   bool    // a few lines beneath what is printed, not the whole terminal
	left    func()  // called when somebody leaves a strip, which stays until it is over
	leaving bool    // left was called
	over    bool    // nothing is shown any more

	sized    bool          // the terminal's size is known
	drawn    chan struct{} // of a strip: closed when it was drawn first
	panicked panicked
}

type (
	drawn    struct{}
	tick     time.Time
	panicked string // with the stack
)

// firstFrame is more than the time until the first frame is drawn. Lines that are written before would scroll out of sight.
const firstFrame = 100 * time.Millisecond

// beat is how often what counts down is drawn again.
const beat = 250 * time.Millisecond

func nextTick() tea.Cmd { return tea.Tick(beat, func(t time.Time) tea.Msg { return tick(t) }) }

// Init implements [tea.Model].
func (v view) Init() tea.Cmd { return nextTick() }

// Update implements [tea.Model].
func (v view) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		v.model = v.model.Sized(msg.Width, msg.Height)
		if v.drawn != nil && !v.sized {
			v.sized = true
			cmd = tea.Tick(firstFrame, func(time.Time) tea.Msg { return drawn{} })
		}
	case drawn:
		close(v.drawn)
	case tick:
		v.model, cmd = v.model.At(time.Time(msg)), nextTick()
	case Snapshot:
		v.model = v.model.At(time.Now()).With(msg)
	case tea.KeyPressMsg:
		return v.press(msg)
	case tea.PasteMsg:
		v.model = v.model.Press(Key{Name: "paste", Text: msg.Content})
	case over:
		v.over = true
	case panicked:
		v.panicked, cmd = msg, tea.Quit
	}
	if !v.strip {
		v.reader.Look(v.model.Sight())
	}
	return v, cmd
}

func (v view) press(msg tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	key := Key{Name: msg.String(), Text: msg.Text}
	switch {
	case key.Name == "ctrl+z":
		return v, tea.Suspend
	case v.strip && key.Name == "ctrl+c":
		if v.leaving {
			return v, tea.Quit // what is waited for now is ended by a real signal
		}
		v.leaving = true
		v.left()
		return v, nil
	case v.strip:
		return v, nil
	}
	v.model = v.model.Press(key)
	v.reader.Pause(v.model.Paused())
	v.reader.Look(v.model.Sight())
	if v.model.Quit() {
		return v, tea.Quit
	}
	return v, nil
}

// View implements [tea.Model].
func (v view) View() tea.View {
	switch {
	case v.over:
		return tea.NewView("")
	case v.strip:
		return tea.NewView(strings.Join(v.model.Strip(), "\n"))
	}
	screen := tea.NewView(strings.Join(v.model.Lines(), "\n"))
	screen.AltScreen = true
	return screen
}
