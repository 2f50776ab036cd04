package manager

import (
	"log/slog"

	"github.com/onetoken/onetoken/manager/endpoint"
)

// Endpoint returns a client of e's endpoints: for a login, or its end. It reads the files that e names, and does no other
// I/O. The error names the setting at fault.
func (e Environment) Endpoint() (*endpoint.Client, error) {
	p, err := e.withDefaults()
	if err != nil {
		return nil, err
	}
	return endpoint.New(e.endpointConfig(p, slog.New(slog.DiscardHandler)))
}
