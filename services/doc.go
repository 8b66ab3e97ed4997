// Package services is one folder per service: gateway, keys, functions, deployments, cluster-inventory, invocation,
// tasks, ledger, agent. No service imports a sibling; what they say to one another is in contracts.
package services
