package grantdocs_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/config"
)

// An editor that knows the schema has nothing against a configuration either.
func TestTheConfigurationsFitTheSchema(t *testing.T) {
	t.Parallel()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema()))
	must(t, err)
	c := jsonschema.NewCompiler()
	must(t, c.AddResource("onetoken.schema.json", document))
	schema, err := c.Compile("onetoken.schema.json")
	must(t, err)
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			var file any
			must(t, yaml.Load([]byte(b.text), &file))
			data, err := json.Marshal(file)
			must(t, err)
			instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
			must(t, err)
			if err := schema.Validate(instance); err != nil {
				t.Errorf("docs/%s:%d: %v", page, b.line, err)
			}
		}
	}
}
