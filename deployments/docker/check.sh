#!/usr/bin/env bash
# The compose form, tried as its operator would: up, a key, a function, a deployment, a call; then kill -9 of one
# container after another with a call after each, more replicas, and down without a trace. curl only.
#
#   deployments/docker/check.sh                  the last line is `N passed, N failed`; exit 0 when none failed
#   COUNTS=file deployments/docker/check.sh      appends "passed failed skipped" to the file
#   KEEP=1 deployments/docker/check.sh           leaves everything running
#
# Runs under a project name, a network and ports of its own, so that it disturbs no other compose project.
# kill -9 is a real one, sent to the process from outside: `docker kill` would count as an operator's stop and
# switch off the restart policy that is being tried.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

export COMPOSE_PROJECT_NAME=siroccocheck$$
export SIROCCO_NETWORK=$COMPOSE_PROJECT_NAME SIROCCO_TAG=check
export SIROCCO_HTTP_PORTS=${SIROCCO_HTTP_PORTS:-18080-18089}
export SIROCCO_GRPC_PORTS=${SIROCCO_GRPC_PORTS:-18100-18109}
export SIROCCO_HEALTH_PORTS=${SIROCCO_HEALTH_PORTS:-18090-18099}
victims=${VICTIMS:-invocation agent functions nats postgres gateway}
instance_type=${INSTANCE_TYPE:-NCP.GPU.H100_1x}
image=sirocco/loadtester:check
message="hello from compose"
work=$(mktemp -d)
passed=0 failed=0
started=$SECONDS

compose() { docker compose "$@"; }
quiet() { "$@" >"$work/log" 2>&1 </dev/null; }

# step NAME COMMAND…: one thing that must be true. The first failure ends the check: what follows would fail too.
step() {
  local name=$1 begin=$SECONDS
  shift
  if "$@"; then
    passed=$((passed + 1))
    printf 'ok   compose: %s (%d s)\n' "$name" $((SECONDS - begin))
  else
    failed=$((failed + 1))
    printf 'FAIL compose: %s (%d s)\n' "$name" $((SECONDS - begin))
    tail -n 20 "$work/log" 2>/dev/null | mask
    finish
  fi
}

mask() { sed -E 's/eyJ[A-Za-z0-9_.-]{20,}/<token>/g; s/nvapi-[A-Za-z0-9_-]+/<key>/g'; }

finish() {
  if [ "$failed" -gt 0 ]; then
    echo "--- containers"
    compose ps 2>/dev/null
    echo "--- last lines of each service"
    compose logs --no-color --tail=15 2>/dev/null | mask | cut -c1-400
  fi
  if [ -z "${KEEP:-}" ]; then
    # Functions that a failed check left behind hold the network, so they go first.
    docker ps -aq --filter "network=$SIROCCO_NETWORK" --filter "ancestor=$image" | xargs -r docker rm -f >/dev/null 2>&1
    compose down -v --remove-orphans -t 5 >/dev/null 2>&1
  fi
  rm -rf "$work"
  [ -z "${COUNTS:-}" ] || echo "$passed $failed 0" >>"$COUNTS"
  echo "compose check took $((SECONDS - started)) s"
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
  exit
}
trap 'failed=$((failed + 1)); finish' INT TERM

# within SECONDS COMMAND…: tries until it succeeds.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.5
  done
}

# gateway N PORT: the published address of the Nth gateway's port.
gateway() { compose port --index "$1" gateway "$2" 2>/dev/null; }
# call METHOD PATH [curl options]: the answer's body in $work/log, true when the status is 2xx.
call() {
  local method=$1 path=$2 code
  shift 2
  code=$(curl -sS -o "$work/log" -w '%{http_code}' --max-time 20 -X "$method" "http://$base$path" "$@" 2>"$work/curl") || {
    cat "$work/curl" >"$work/log"
    return 1
  }
  [[ $code == 2* ]]
}
manage() { call "$@" -H "Authorization: Bearer $admin" -H 'Content-Type: application/json'; }
# member NAME: the first string member of that name in the last answer.
member() { grep -oE "\"$1\": ?\"[^\"]*\"" "$work/log" | head -1 | cut -d'"' -f4; }

build() {
  quiet compose build && quiet docker build -f deployments/docker/Dockerfile --target loadtester -t "$image" .
}
up() { quiet compose up -d "$@"; }
ready() {
  local address
  address=$(gateway 1 8081) && curl -fsS --max-time 5 "http://$address/readyz?verbose" >"$work/log" 2>&1
}
all_up() { # every container runs
  compose ps -q | xargs docker inspect -f '{{.State.Running}}' >"$work/log" 2>&1 && ! grep -q false "$work/log"
}
admin_token() {
  call POST /v1/admin/keys -H 'Host: api-keys.localhost' -H 'Content-Type: application/json' -d '{}' && admin=$(member value) && [ -n "$admin" ]
}
invoke_key() {
  local id=nvidia-cloud-functions-ncp-service-id-aketm
  call POST /v1/keys -H 'Host: api-keys.localhost' -H 'Content-Type: application/json' \
    -H 'Key-Issuer-Service: nvcf-api' -H "Key-Issuer-Id: $id" -H 'Key-Owner-Id: svc@nvcf-api.local' \
    -d '{"description":"compose check","expires_at":"'"$(date -u -d '+1 hour' +%Y-%m-%dT%H:%M:%S.000Z)"'","audience_service_ids":["'$id'"],
         "authorizations":{"policies":[{"aud":"'$id'","auds":["'$id'"],"product":"nv-cloud-functions",
           "resources":[{"id":"*","type":"account-functions"},{"id":"*","type":"authorized-functions"}],
           "scopes":["invoke_function","list_functions","list_functions_details","queue_details"]}]}}' &&
    key=$(member value) && [ -n "$key" ]
}
create_function() {
  manage POST /v2/nvcf/functions -d '{"name":"compose-check","containerImage":"'$image'","inferenceUrl":"/echo","inferencePort":8000,
    "health":{"protocol":"HTTP","uri":"/health","port":8000,"timeout":"PT30S","expectedStatusCode":200}}' &&
    fid=$(member id) && vid=$(member versionId) && [ -n "$fid" ] && [ -n "$vid" ]
}
deploy() {
  manage POST "/v2/nvcf/deployments/functions/$fid/versions/$vid" \
    -d '{"deploymentSpecifications":[{"gpu":"H100","instanceType":"'"$instance_type"'","minInstances":1,"maxInstances":1}]}'
}
active() { manage GET "/v2/nvcf/functions/$fid/versions/$vid" && grep -q '"status":"ACTIVE"' "$work/log"; }
invoke() {
  call POST /echo -H "Host: $fid.invocation.localhost" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' \
    -d '{"message":"'"$message"'","repeats":1}' && grep -qF "$message" "$work/log"
}
instances() { docker ps -q --filter "network=$SIROCCO_NETWORK" --filter "ancestor=$image" | sort; }
crash() { # crash SERVICE: kill -9 its first container's process, and see it come back
  local id pid
  id=$(compose ps -q "$1" | head -1) && pid=$(docker inspect -f '{{.State.Pid}}' "$id") && [ "$pid" -gt 1 ] || return 1
  kill -9 "$pid" 2>"$work/log" || return 1
  within 20 comes_back "$id" "$pid"
}
comes_back() { [ "$(docker inspect -f '{{.State.Running}} {{ne .State.Pid '"$2"'}}' "$1" 2>"$work/log")" = "true true" ]; }
find_base() { base=$(gateway "${1:-1}" 8080) && [ -n "$base" ]; }
recover() { find_base && invoke; } # a restarted gateway may have another port
same_instances() { [ "$(instances)" = "$before" ]; }
gone() { [ -z "$(instances)" ]; }

step "images build, the programs compiled once" build
step "up: every container starts" up
step "the gateway's /readyz answers" within 90 ready
step "the gateway has a published port" find_base
step "admin token" within 60 admin_token
step "scoped key" invoke_key
step "function created" create_function
step "deployed" within 30 deploy
step "the version becomes ACTIVE" within 60 active
step "first call answers" within 10 invoke
before=$(instances)
for victim in $victims; do
  step "$victim killed with -9 comes back" crash "$victim"
  step "a call answers after it" within 60 recover
done
step "no crash touched the running instance" same_instances
step "--scale gateway=2 invocation=2" up --no-recreate --scale gateway=2 --scale invocation=2
step "every container runs" within 60 all_up
step "the second gateway has a port" within 30 find_base 2
step "a call through the second gateway answers" within 60 invoke
step "undeployed" manage DELETE "/v2/nvcf/deployments/functions/$fid/versions/$vid"
step "its containers are gone" within 60 gone
step "function deleted" manage DELETE "/v2/nvcf/functions/$fid/versions/$vid"
[ -n "${KEEP:-}" ] || step "down leaves nothing" quiet compose down -v --remove-orphans -t 20
finish
