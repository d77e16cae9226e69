# What the client hides: statuses, headers, bodies; and requests that no client makes.

api GET /_ping
api HEAD /_ping
api GET /v1.41/_ping
api GET /v1.24/_ping
api GET /nothing
api GET /v1.41/nothing
api PATCH /v1.41/info
api GET /v1.41/containers
api GET /v1.0/info
api GET /v1.11/info
api GET /v1.99/info
api GET /vX/info
api GET /v1.41//info
api GET '/v1.41/containers/json?limit=x'
api GET '/v1.41/containers/json?size=x&all=y'
api GET '/v1.41/containers/json?filters={'
api GET '/v1.41/containers/json?filters=%7B'
api GET '/v1.41/containers/json?filters=%5B%5D'
api GET '/v1.41/containers/json?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/containers/json?filters=%7B%22status%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/containers/json?filters=%7B%22status%22%3A%7B%22running%22%3Atrue%7D%7D'
api GET '/v1.41/containers/json?before=nobody'
api GET '/v1.41/containers/json?filters=%7B%22before%22%3A%5B%22nobody%22%5D%7D'
api GET '/v1.41/containers/json?filters=%7B%22exited%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/containers/json?filters=%7B%22health%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/containers/%'
api GET '/v1.41/containers/nobody/json?size=1'
api GET /v1.41/containers/nobody/top
api GET /v1.41/containers/nobody/logs
api GET /v1.41/containers/nobody/changes
api GET /v1.41/containers/nobody/export
api GET /v1.41/containers/nobody/stats?stream=0
api GET /v1.41/containers/nobody/attach/ws
api POST /v1.41/containers/nobody/attach
api POST /v1.41/containers/nobody/start
api POST /v1.41/containers/nobody/stop
api POST /v1.41/containers/nobody/restart
api POST /v1.41/containers/nobody/kill
api POST /v1.41/containers/nobody/pause
api POST /v1.41/containers/nobody/unpause
api POST /v1.41/containers/nobody/wait
api POST '/v1.41/containers/nobody/resize?h=1&w=1'
api POST '/v1.41/containers/nobody/rename?name=x'
api POST /v1.41/containers/nobody/update '{}'
api POST /v1.41/containers/nobody/exec '{"Cmd":["true"]}'
api GET '/v1.41/containers/nobody/archive?path=/'
api HEAD '/v1.41/containers/nobody/archive?path=/'
api DELETE /v1.41/containers/nobody
api POST /v1.41/containers/create
api POST /v1.41/containers/create '{'
api POST /v1.41/containers/create '[]'
api POST /v1.41/containers/create 'null'
api POST /v1.41/containers/create '{}'
api POST /v1.41/containers/create '{} {}'
api POST /v1.41/containers/create '{"Image":5}'
api POST /v1.41/containers/create '{"Image":"busybox","Cmd":5}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"Memory":"64m"}}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"Memory":1.5}}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"PortBindings":{"80/nonsense":[{}]}}}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"x"}]}}}'
api POST /v1.41/containers/create '{"Image":"busybox","ExposedPorts":{"x":{}}}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"Binds":["/no-target"]}}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"Binds":["a:b:c:d"]}}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"nonsense","Target":"/x"}]}}'
api POST /v1.41/containers/create '{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Target":"/x"}]}}'
api POST /v1.41/containers/create '{"Image":"nobody"}'
api POST /v1.41/containers/create '{"Image":"UPPER"}'
api POST '/v1.41/containers/create?name=_' '{"Image":"busybox"}'
api POST /v1.41/containers/create '{"Image":"busybox"}' --header 'Content-Type: text/plain'
api POST '/v1.41/containers/create?name=made' '{"image":"busybox","CMD":["sleep","1000"],"Unknown":{"x":[1]}}'
api POST '/v1.41/containers/create?name=made' '{"Image":"busybox"}'
api POST /v1.41/containers/made/start '{"Binds":["/a:/b"]}'
api POST /v1.41/containers/made/start
api POST /v1.41/containers/made/start
api POST '/v1.41/containers/made/stop?t=x'
api POST '/v1.41/containers/made/kill?signal=x'
api POST '/v1.41/containers/made/resize?h=x&w=1'
api POST '/v1.41/containers/made/resize?h=10&w=10'
api GET '/v1.41/containers/made/logs'
api GET '/v1.41/containers/made/logs?stdout=1&tail=x'
api GET '/v1.41/containers/made/logs?stdout=1&since=x'
api GET '/v1.41/containers/made/logs?stdout=1'
api POST /v1.41/containers/made/update '{"Memory":"x"}'
api POST /v1.41/containers/made/update '{'
api POST /v1.41/containers/made/rename
api POST /v1.41/containers/made/exec '{"Cmd":[]}'
api POST /v1.41/containers/made/exec '{'
api POST /v1.41/containers/made/exec '{"Cmd":["true"]}' | tail -n 1
api GET /v1.41/exec/nothing/json
api POST /v1.41/exec/nothing/start '{}'
api POST '/v1.41/exec/nothing/resize?h=1&w=1'
curl -s --unix-socket "$SOCKET" -X POST -H 'Content-Type: application/json' -d '{"Cmd":["sh","-c","exit 4"]}' http://d/v1.41/containers/made/exec | jq -r .Id > exec
api GET "/v1.41/exec/$(cat exec)/json"
api POST "/v1.41/exec/$(cat exec)/start" '{"Detach":true}'
until curl -s --unix-socket "$SOCKET" "http://d/v1.41/exec/$(cat exec)/json" | grep -q '"Running":false'; do sleep 0.02; done
api GET "/v1.41/exec/$(cat exec)/json" | sed 's/"Pid":[0-9]*/"Pid":…/'
api POST "/v1.41/exec/$(cat exec)/start" '{"Detach":true}'
api GET '/v1.41/containers/made/archive'
api GET '/v1.41/containers/made/archive?path=/nothing'
api HEAD '/v1.41/containers/made/archive?path=/etc/passwd' | sed 's/Stat: .*/Stat: …/'
api PUT '/v1.41/containers/made/archive?path=/nothing' 'no archive'
api PUT '/v1.41/containers/made/archive?path=/etc/passwd' 'no archive'
api DELETE /v1.41/containers/made
api DELETE '/v1.41/containers/made?force=1&v=1'
api GET /v1.41/images/nothing/json
api GET /v1.41/images/nothing/history
api GET /v1.41/images/nothing/get
api DELETE /v1.41/images/nothing
api POST '/v1.41/images/nothing/tag?repo=x'
api POST '/v1.41/images/busybox/tag?repo=UPPER'
api POST /v1.41/images/nothing/push
api POST '/v1.41/images/create'
api POST '/v1.41/images/create?fromImage=UPPER'
api POST '/v1.41/images/create?fromSrc=-' 'no archive'
api POST /v1.41/images/load 'no archive'
api GET '/v1.41/images/json?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/images/json?filters=%7B%22dangling%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/images/json?filters=%7B%22before%22%3A%5B%22nothing%22%5D%7D'
api GET '/v1.41/images/json'
api GET '/v1.41/images/busybox/history'
api POST '/v1.41/images/prune?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D'
api POST '/v1.41/commit?container=nobody'
api GET /v1.41/networks/nothing
api DELETE /v1.41/networks/nothing
api POST /v1.41/networks/create '{}'
api POST /v1.41/networks/create '{'
api POST /v1.41/networks/create '{"Name":"x","Driver":"nonsense"}'
api POST /v1.41/networks/create '{"Name":"bridge"}'
api POST /v1.41/networks/bridge/connect '{"Container":"nobody"}'
api POST /v1.41/networks/nothing/connect '{"Container":"nobody"}'
api POST /v1.41/networks/bridge/disconnect '{"Container":"nobody"}'
api GET '/v1.41/networks?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/networks?filters=%7B%22driver%22%3A%5B%22null%22%5D%7D'
api GET /v1.41/volumes/nothing
api DELETE /v1.41/volumes/nothing
api POST /v1.41/volumes/create '{"Name":"/"}'
api POST /v1.41/volumes/create '{"Name":"data","Driver":"nonsense"}'
api POST /v1.41/volumes/create '{"Name":"data","Labels":{"a":"b"}}'
api POST /v1.41/volumes/create '{"Name":"data"}'
api GET '/v1.41/volumes?filters=%7B%22name%22%3A%5B%22data%22%5D%7D'
api GET '/v1.41/volumes?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D'
api GET /v1.41/volumes/data
api DELETE /v1.41/volumes/data
api GET /v1.41/containers/nobody/checkpoints | head -n 1
api POST /v1.41/containers/nobody/checkpoints '{"CheckpointID":"one"}' | head -n 1
api DELETE /v1.41/containers/nobody/checkpoints/one | head -n 1
api POST '/v1.41/containers/nobody/start?checkpoint=one' | head -n 1
api GET '/v1.41/events?since=x'
api GET '/v1.41/events?until=1&filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D'
api GET '/v1.41/events?since=2&until=1'
api GET /v1.41/swarm
api GET /v1.41/nodes
api GET /v1.41/services
api GET /v1.41/tasks
api GET /v1.41/secrets
api GET /v1.41/configs
api POST /v1.41/swarm/leave
api GET /v1.41/plugins
api GET /v1.41/plugins/nothing/json
api POST /v1.41/auth '{}'
api POST /v1.41/auth '{'
api POST /v1.41/auth '{"Username":5}'
api GET /v1.41/distribution/UPPER/json
api GET '/v1.30/images/json'
api GET '/v1.35/volumes?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D'
api POST '/v1.25/containers/create?name=old' '{"Image":"busybox","HostConfig":{}}' | tail -n 1
api GET '/v1.24/containers/json?all=1&filters=%7B%22name%22%3A%5B%22%5E%2Fold%24%22%5D%7D'
api GET '/v1.25/containers/old/json' | tail -n 1
api GET '/v1.32/containers/old/json' | tail -n 1
