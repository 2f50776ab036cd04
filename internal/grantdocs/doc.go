// Package grantdocs checks the pages for grants, providers and refresh tokens (docs/grants, docs/providers,
// docs/refresh-tokens.md): that each configuration in them is read by the parser and makes a manager, and that each page has
// one for each grant and for each way to authenticate that it claims. No provider is asked.
package grantdocs
