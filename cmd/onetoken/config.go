package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/doctor"
	"github.com/onetoken/onetoken/internal/printable"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check the configuration file; print its JSON Schema, or an example",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("config: unknown command %.100q; check, schema and example are known", args[0])}
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.configCheckCommand(),
		a.printCommand("schema", "Print the JSON Schema of the configuration file", config.Schema,
			`Print the JSON Schema (draft 2020-12) of the configuration file. An editor uses it where the file begins with

  # yaml-language-server: $schema=onetoken.schema.json

(or has the URL of a copy there). It knows every setting; what only shows once variables are expanded and files are read is
left to onetoken config check.`),
		a.printCommand("example", "Print a configuration file with every setting", config.Example,
			`Print a configuration file with every setting, what it means and what holds without it. Those that aren't needed are
commented out.`))
	return cmd
}

// printCommand is a command that prints a text.
func (a *app) printCommand(name, short string, text func() []byte, long string) *cobra.Command {
	return &cobra.Command{
		Use:               name,
		Short:             short,
		Long:              long,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(text())
			return err
		},
	}
}

// A checkAnswer is what config check prints as JSON.
type checkAnswer struct {
	File         string          `json:"file"`
	OK           bool            `json:"ok"`
	Environments int             `json:"environments"` // 0 where the file can't be read
	Problems     []configProblem `json:"problems"`
}

// A configProblem is one thing that is wrong.
type configProblem struct {
	Line    int    `json:"line"`    // 0 where it is about the whole file, or a flag
	Setting string `json:"setting"` // "environments.prod.lease"; "" where there is none
	Message string `json:"message"`
}

func (a *app) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check the configuration file, without a look at Redis or an endpoint",
		Long: `Check the configuration file: FILE, else that of --config, $ONETOKEN_CONFIG, or ./onetoken.yaml. Variables are expanded and
files that it names are read; nothing is asked of Redis or of an endpoint: onetoken doctor does that.

It prints one line where all is well. Else the exit code is 2, and one problem is an error like that of any command; several
are printed one a line, or as JSON.`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				a.sources.Path = args[0]
			}
			environments, problems := a.sources.Check()
			answer := checkAnswer{File: a.sources.File(), OK: len(problems) == 0, Environments: environments, Problems: []configProblem{}}
			for _, p := range problems {
				answer.Problems = append(answer.Problems, problemOf(p))
			}
			if answer.OK || len(problems) > 1 || a.output == "json" {
				if err := a.answer(answer, checkText(answer, problems)); err != nil {
					return err
				}
			}
			switch len(problems) {
			case 0:
				return nil
			case 1:
				return &usageError{problems[0]}
			}
			return &usageError{fmt.Errorf("%s: %d problems", printable.Line(answer.File, 200), len(problems))}
		},
	}
}

func problemOf(err error) configProblem {
	located, ok := errors.AsType[*config.Error](err)
	if !ok {
		return configProblem{Message: printable.Line(err.Error(), 500)}
	}
	return configProblem{located.Line, located.Setting, printable.Line(located.Err.Error(), 500)}
}

// checkText is one line, or one for each problem.
func checkText(answer checkAnswer, problems []error) string {
	if answer.OK {
		return fmt.Sprintf("%s: ok: %s\n", printable.Line(answer.File, 200), doctor.Count(answer.Environments, "environment"))
	}
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintln(&b, printable.Line(p.Error(), 1000))
	}
	return b.String()
}
