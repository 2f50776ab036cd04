package config

import (
	"reflect"
	"slices"
	"testing"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/manager"
)

// What a file can't say: it is code, or belongs to the program.
var notInAFile = []string{
	"Environment.HTTPClient", "Environment.Source", "Environment.SourceID",
	"Config.Redis", // redis is its address
	"Config.Logger", "Config.MeterProvider", "Config.TracerProvider", "Config.WallClock", "Config.Resolve", "Config.IdleAfter",
	"Config.Codec",          // sealing makes one
	"Options.URL",           // url sets it, or Addresses
	"Config.Environments",   // these three are File's
	"Config.Namespace",      //
	"Config.Replica",        //
	"Sealing.codec",         // the keyring's
	"File.Path",             // these are what parsing finds out
	"File.SecretFiles",      //
	"File.Literals",         //
	"File.Secrets",          //
	"File.lines",            //
	"Environment.Policy",    // its fields are those of the environment
	"Environment.Assertion", // the section has a table of its own, below
}

// Whatever the manager can be told has a setting, or stands in the list above. And the other way round.
func TestEveryFieldHasASetting(t *testing.T) {
	var e manager.Environment
	var a manager.Assertion
	var b manager.Backoff
	var o redisclient.Options
	var f File
	var agent Agent
	var client AgentClient
	var sealing Sealing
	inConfig := new(manager.Config)
	unused := slices.Clone(notInAFile)
	for _, c := range []struct {
		of any
		in table
	}{
		{&e, environmentTable(&e)},
		{&e.Policy, environmentTable(&e)},
		{&a, assertionTable(&a)},
		{&b, backoffTable(&b)},
		{&o, redisTable(&o)},
		{&f, fileTable(&f)},
		{&agent, agentTable(&agent)},
		{&client, clientTable(&client)},
		{&sealing, sealingTable(&sealing)},
		{inConfig, table{}},
	} {
		of := reflect.ValueOf(c.of).Elem()
		for i := range of.NumField() {
			name := of.Type().Name() + "." + of.Type().Field(i).Name
			if at := slices.Index(unused, name); at >= 0 {
				unused = slices.Delete(unused, at, at+1)
				if name != "Environment.Assertion" {
					continue
				}
			}
			field := of.Field(i).Addr()
			var set []string
			for _, s := range c.in.settings() {
				if s.to != nil && reflect.ValueOf(s.to).Pointer() == field.Pointer() && reflect.TypeOf(s.to) == field.Type() {
					set = append(set, s.name)
				}
			}
			if len(set) == 0 {
				t.Errorf("%s has no setting", name)
			}
			if len(set) > 1 && name != "Options.Password" {
				t.Errorf("%s has several settings: %v", name, set)
			}
		}
	}
	if len(unused) > 0 {
		t.Errorf("these are no fields: %v", unused)
	}
}

// The defaults that are shown are the manager's: a file that spells them out is one that leaves them out.
func TestShownDefaultsAreTheManagers(t *testing.T) {
	parse := func(lines string) manager.Environment {
		t.Helper()
		f, err := Parse("onetoken.yaml", []byte("environments:\n  prod:\n    base_url: https://a.example\n    client_id: x\n    client_secret: y\n"+lines), nil)
		if err != nil {
			t.Fatal(err)
		}
		return f.Environments["prod"]
	}
	var lines string
	var shown []string
	for _, s := range environmentTable(new(manager.Environment)).settings() {
		if s.standard != "" {
			lines += "    " + s.name + ": " + s.standard + "\n"
			shown = append(shown, s.name)
		}
	}
	got := parse(lines)
	want, err := parse("").WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if got.Policy != want {
		t.Errorf("got  %+v\nwant %+v", got.Policy, want)
	}
	if got.AuthMethod != manager.ClientSecretBasic || got.Grant != manager.ClientCredentials || got.AllowHTTP ||
		got.SubjectTokenType != "jwt" || got.ActorTokenType != "jwt" {
		t.Errorf("got %+v", got)
	}
	if len(shown) != 16 {
		t.Errorf("%d defaults are shown: %v", len(shown), shown)
	}
}
