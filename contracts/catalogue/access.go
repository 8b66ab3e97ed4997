package catalogue

import "github.com/sirocco-cloud/sirocco/contracts/access"

var accessEntries = []Entry{
	{"access.Decided", access.Decided},
}
